"""The line that a command ends with when something was not foreseen."""

from dispatcher.cli.errors import FAILED, MISUSED, explain


def test_missing_library_names_the_extra() -> None:
    """Whoever installed too little is told what to install, wherever the import stands."""
    told = explain(ModuleNotFoundError("No module named 'botocore.session'", name="botocore.session"))
    assert told.message == "this needs the library botocore.session: pip install 'serverless-dispatcher[aws]'"
    assert told.code == MISUSED


def test_missing_module_of_the_user_s_own_is_no_extra() -> None:
    """A module that no extra brings is told as it is."""
    told = explain(ModuleNotFoundError("No module named 'shop'", name="shop"))
    assert "ModuleNotFoundError: No module named 'shop'" in told.message
    assert told.code == FAILED
