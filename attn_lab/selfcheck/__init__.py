"""attn-lab selfcheck: known faults are injected, and must be detected."""
