"""The lab's configuration: packaged as attn_lab.conf."""
