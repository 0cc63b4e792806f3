"""Configuration errors, Hydra's included, as one line with the culprit and the valid choices."""

from pathlib import Path

from hydra.errors import InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ValidationError

from attn_lab import conf
from attn_lab.core.errors import BadRequest
from attn_lab.core.suggest import did_you_mean
from attn_lab.records.renamed import KEYS, PROBES

MOST = 600  # characters of a foreign error that are printed
LONG = 80  # characters of a name that is shown


def explained(error: BaseException) -> BadRequest:
    """`error` as a BadRequest whose text is one line; the most telling of its causes has the word."""
    if isinstance(error, BadRequest):
        return error
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    for tell in (_own, _option, _key, _type, _target, _null, _override):
        for cause in causes:
            if found := tell(cause):
                return found
    return BadRequest(_line(error) if str(error) else f"cannot be composed: {type(error).__name__}")


def _own(cause: BaseException) -> BadRequest | None:
    return BadRequest(str(cause)) if isinstance(cause, BadRequest) else None


def _option(cause: BaseException) -> BadRequest | None:
    """An option that its group does not have; those in folders, which Hydra leaves out, are named too."""
    if not isinstance(cause, MissingConfigException) or not cause.missing_cfg_file:
        return None
    missing = cause.missing_cfg_file
    group, _, option = missing.rpartition("/") if missing.startswith("hydra/") else missing.partition("/")
    folder = Path(conf.__path__[0], group)
    if group == "probe" and option in PROBES:
        return BadRequest(f"probe: expected the new name of {option}, {PROBES[option]}")
    own = {str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")}
    options = sorted({*(cause.options or []), *own})
    if options and len(missing) > LONG:
        return BadRequest(f"{group}: expected one of {', '.join(options)}; got {option[:LONG]!r}…")
    return (
        BadRequest(f"{group}: expected one of {', '.join(options)}; got {option!r}{did_you_mean(option, options)}")
        if options
        else None
    )


def _key(cause: BaseException) -> BadRequest | None:
    """A key that is not there; under its old name, the new one."""
    if not isinstance(cause, ConfigKeyError | ConfigAttributeError) or not isinstance(cause.parent_node, DictConfig):
        return None
    keys = [str(key) for key in cause.parent_node if not str(key).startswith("_") and key != "hydra"]
    if new := KEYS.get(str(cause.full_key)):
        return BadRequest(f"{cause.full_key}: expected its new name, {new}")
    expected = f"one of {', '.join(keys)}" if keys else "nothing, the option chosen has no settings"
    return BadRequest(f"{cause.full_key}: no such key; expected {expected}{did_you_mean(cause.key, keys)}")


def _type(cause: BaseException) -> BadRequest | None:
    if isinstance(cause, ValidationError) and cause.full_key:
        return BadRequest(f"{cause.full_key}: {_line(cause)}")
    return None


def _target(cause: BaseException) -> BadRequest | None:
    """A `_target_` that is not there, or that does not take the settings given."""
    if not isinstance(cause, InstantiationException):
        return None
    where = str(cause).rpartition("full_key: ")[2].strip()
    why = _chain(cause.__cause__) if cause.__cause__ else _line(cause)
    return BadRequest(f"{where}: {why}" if where else why)


def _null(cause: BaseException) -> BadRequest | None:
    """`backend=null`: Hydra says so in a bare ValueError, without the group."""
    if isinstance(cause, ValueError) and "Config group override must be" in str(cause):
        return BadRequest("backend, shape, mask, subject, measure, probe, logger: expected an option each; got null")
    return None


def _override(cause: BaseException) -> BadRequest | None:
    if isinstance(cause, OverrideParseException):
        return BadRequest(f"override {cause.override!r}: expected KEY=VALUE in Hydra's grammar; got {_line(cause)}")
    return None


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:MOST] if lines else type(error).__name__


def _chain(error: BaseException) -> str:
    """The error and the causes under it that it does not repeat, as one line."""
    text = _line(error)
    cause = error.__cause__ or error.__context__
    while cause is not None:
        if (line := _line(cause)) not in text:
            text += f"{'' if text.endswith(':') else ':'} {line}"
        cause = cause.__cause__ or cause.__context__
    return text
