"""Names of GPU kernels, short enough for a table."""

import re


def short_name(kernel: str, pattern: re.Pattern[str] | None = None) -> str:
    """A kernel's name without template arguments and parameters, at most 120 characters.

    What `pattern` matched is appended where the short name does not show it.
    """
    name = kernel.replace("(anonymous namespace)", "")
    name = re.sub(r"^void |^kernel_cutlass_kernel_|[<(].*|_object_at_.*", "", name, flags=re.DOTALL)[:120]
    match = pattern and pattern.search(kernel)
    return f"{name}<{match.group()}>" if match and not re.search(re.escape(match.group()), name) else name
