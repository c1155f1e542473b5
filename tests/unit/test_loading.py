"""Apps are found by name, and a name that finds none says why."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.loading import find_app

Write = Callable[[str, str], None]
APP = "from dispatcher import Dispatcher\n{name} = Dispatcher('{main}', set_as_current=False)\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write modules into a directory on the search path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def module(path: str, source: str) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)

    yield module
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("spec", ["found_a:app", "found_a", "found_a.app", " found_a:app "])
def test_app_of_a_module(write: Write, spec: str) -> None:
    """Module and attribute, the module alone, or a dotted path mean the same app."""
    write("found_a.py", APP.format(name="app", main="a"))
    assert find_app(spec).main == "a"


def test_nested_attribute(write: Write) -> None:
    """An attribute may be one of an object."""
    write("found_b.py", "class Box: pass\n" + APP.format(name="Box.app", main="b"))
    assert find_app("found_b:Box.app").main == "b"


def test_the_usual_name_wins_over_others(write: Write) -> None:
    """Of several apps ``app`` is meant, before ``dispatcher`` and ``celery``."""
    write("found_c.py", APP.format(name="other", main="o") + APP.format(name="app", main="c"))
    assert find_app("found_c").main == "c"


def test_only_app_has_any_name(write: Write) -> None:
    """A single app is found whatever it is called; a second name for it makes it no second app."""
    write("found_d.py", APP.format(name="shop", main="d") + "alias = shop\n")
    assert find_app("found_d").main == "d"


def test_lazy_proxies_are_no_apps(write: Write) -> None:
    """A module that imports ``current_app`` has no second app by that."""
    write("found_p.py", "from dispatcher import current_app\n" + APP.format(name="shop", main="p"))
    assert find_app("found_p").main == "p"


def test_several_apps_are_ambiguous(write: Write) -> None:
    """Of several apps with unusual names one must be named."""
    write("found_e.py", APP.format(name="one", main="1") + APP.format(name="two", main="2"))
    with pytest.raises(ImproperlyConfigured, match=r"ambiguous: found_e has one, two; name one: found_e:one"):
        find_app("found_e")


def test_package_leads_to_its_app_module(write: Write) -> None:
    """A project's package need not have the app itself."""
    write("found_f/__init__.py", "")
    write("found_f/celery.py", APP.format(name="app", main="f"))
    assert find_app("found_f").main == "f"


def test_missing_module_is_named() -> None:
    """A module that is not there is told from one that fails."""
    with pytest.raises(ImproperlyConfigured, match="there is no module 'found_nowhere'"):
        find_app("found_nowhere.tasks:app")


def test_error_inside_the_module_is_raised(write: Write) -> None:
    """What the app's own code raises is not hidden behind ours, a missing import of its included."""
    write("found_g.py", "import found_not_installed\n")
    with pytest.raises(ModuleNotFoundError, match="found_not_installed"):
        find_app("found_g:app")
    write("found_h/__init__.py", "")
    write("found_h/celery.py", "import found_not_installed\n")
    with pytest.raises(ModuleNotFoundError, match="found_not_installed"):
        find_app("found_h")


def test_missing_attribute_names_the_apps(write: Write) -> None:
    """A wrong attribute is answered with the right ones."""
    write("found_i.py", APP.format(name="shop", main="i"))
    with pytest.raises(ImproperlyConfigured, match="found_i has no 'app'; it has the apps shop"):
        find_app("found_i:app")


def test_a_function_that_makes_an_app_is_none(write: Write) -> None:
    """The message says how to name what it makes."""
    write("found_j.py", "def create(): ...")
    with pytest.raises(ImproperlyConfigured, match=r"app = create\(\)"):
        find_app("found_j:create")


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("", "names no app"),
        ("x:", "names no app"),
        (":app", "names no app"),
        ("shop/tasks.py", "name the module: 'shop.tasks'"),
    ],
)
def test_specs_that_name_nothing(spec: str, complaint: str) -> None:
    """An empty module or attribute is refused."""
    with pytest.raises(ImproperlyConfigured, match=complaint):
        find_app(spec)


def test_other_objects_are_no_apps(write: Write) -> None:
    """An attribute that is something else, or a module without an app, is refused with a hint."""
    write("found_j.py", "app = 7\n")
    with pytest.raises(ImproperlyConfigured, match="found_j:app is 7, not an app"):
        find_app("found_j:app")
    with pytest.raises(ImproperlyConfigured, match="has no app"):
        find_app("found_j")
