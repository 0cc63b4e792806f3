"""python -m attn_lab is attn-lab."""

from attn_lab.cli import main

main()
