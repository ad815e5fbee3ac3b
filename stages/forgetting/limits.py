"""How much the forgetting check looks at: enough for an interval, and seconds on two cores with 135M parameters."""

TEXTS, TEXT_TOKENS = 24, 40  # neutral texts, and of each of them
OWN_ROWS, OWN_TOKENS = 8, 48  # of the stage's held-out rows, and of each of them
PROBES = 42
