"""The public docstrings: each says what goes in and comes out, and its example runs as it stands."""

import doctest
import inspect

import pytest

import attn_lab
from attn_lab.core.backend import Backend
from attn_lab.core.mask import Mask
from attn_lab.integrations import transformers

PUBLIC = [attn_lab.Attention, attn_lab.Attention.forward, attn_lab.convert, attn_lab.profile, transformers.register,
          transformers.register_as, Backend, Mask]  # fmt: skip
EXAMPLES = [attn_lab.Attention, attn_lab.convert, transformers.register, Backend, Mask]


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda each: each.__qualname__)
def test_a_public_docstring_names_every_argument(thing):
    text = inspect.getdoc(thing) or ""
    first = text.partition("\n")[0]
    assert first.endswith((".", ":")) or ": " in first, first
    signature = inspect.signature(thing.__init__ if inspect.isclass(thing) and thing not in (Backend, Mask) else thing)
    names = [name for name in signature.parameters if name not in ("self", "args", "kwargs")]
    missing = [name for name in names if f"{name}:" not in text] if thing not in (Backend, Mask) else []
    assert not missing


@pytest.mark.parametrize("thing", EXAMPLES, ids=lambda each: each.__qualname__)
def test_the_example_of_a_public_docstring_runs(thing):
    (test,) = doctest.DocTestFinder(recurse=False).find(thing, thing.__qualname__, globs={})
    assert test.examples
    said: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not results.failed, "".join(said)
