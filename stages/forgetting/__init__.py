"""What a stage costs the model: how far it moved on neutral text and on its own rows, and what it can still do."""

# What is measured: on the neutral texts and the stage's own held-out rows, against the model that the stage was given
# ("input") and the one that the chain started from ("base").
FORGETTING = (
    "neutral_kl_input", "neutral_agreement_input", "neutral_kl_base", "neutral_agreement_base",
    "own_kl_input", "own_agreement_input", "own_kl_base", "own_agreement_base",
    "neutral_perplexity", "probe_accuracy",
)  # fmt: skip
