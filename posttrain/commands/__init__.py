"""The commands of `posttrain`, a module each; what they compute stands elsewhere, so that they only ask and print."""
