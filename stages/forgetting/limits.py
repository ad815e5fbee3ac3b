"""How much the forgetting check looks at: enough for an interval, and seconds on two cores with 135M parameters."""

TEXT_TOKENS = 40  # of each of the 24 neutral texts
OWN_ROWS, OWN_TOKENS = 8, 48  # of the stage's held-out rows, and of each of them
