"""The gate before all heavy steps: one sample's files in seconds, then what all samples must agree on."""
