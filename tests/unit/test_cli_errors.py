"""The line that a command ends with when something was not foreseen."""

from dispatcher.cli.errors import FAILED, MISUSED, explain


def test_missing_library_names_the_extra() -> None:
    """Whoever installed too little is told what to install, wherever the import stands."""
    told = explain(ModuleNotFoundError("No module named 'botocore.session'", name="botocore.session"))
    assert told.message == "this needs the library botocore.session: pip install 'serverless-dispatcher[aws]'"
    assert told.code == MISUSED


def test_missing_module_of_the_user_s_own_is_no_extra() -> None:
    """A module that no extra brings is told as it is, and is the app's to bring."""
    told = explain(ModuleNotFoundError("No module named 'shop'", name="shop"))
    assert told.message.startswith(
        "a module of the app cannot be imported: ModuleNotFoundError: No module named 'shop';"
    )
    assert told.code == MISUSED


def test_error_of_nobody_s_is_a_failure() -> None:
    """Whatever else is raised names its type and the way to its traceback."""
    told = explain(RuntimeError("oh"))
    assert told.message == "RuntimeError: oh (--debug shows the traceback)"
    assert told.code == FAILED
