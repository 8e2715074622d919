"""What to install where only what a trainer needs is there.

`pip install vqpipe` brings what `CodesDataset` needs; commands, and the functions that are
commands, need the extra `pipeline`.
"""


def explain_missing(error: ModuleNotFoundError, who: str) -> str:
    """Returns what to do about a package that is not there.

    Args:
        error: What says that it is not.
        who: Needs it, such as `its commands need`.

    Raises:
        ModuleNotFoundError: `error`, if it is a file of ours that is not there.
    """
    package = (error.name or "").partition(".")[0]
    if package in {"", "vqpipe"}:
        raise error
    return f"{who} {package}, which this environment lacks: pip install 'vqpipe[pipeline]'"
