"""Packages for functions: modules and wheels for the function's platform, botocore trimmed, and all of it compiled."""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.packaging import Contents, Package
from dispatcher.packaging.project import check_app
from dispatcher.packaging.services import OWN, trim
from tests.emulation.archive import ARCHITECTURE, RUNTIME, spoil_sources
from tests.emulation.environments import ROOT

#: The flags of bytecode that nobody compares with its source, in its second word (PEP 552).
UNCHECKED_HASH = b"\x01\0\0\0"


def wheel(folder: Path, tag: str) -> Path:
    """A wheel of the distribution `yeast` with one module."""
    path = folder / f"yeast-1.0-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("yeast.py", "")
        archive.writestr("yeast-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: yeast\nVersion: 1.0\n")
        archive.writestr("yeast-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr("yeast-1.0.dist-info/RECORD", "")
    return path


def build(into: Path, package: Package) -> Contents:
    """Build a package for the Python that runs the tests."""
    return package.build(into, runtime=RUNTIME, architecture="arm64")


def test_modules_and_wheels_of_the_platform_are_put_together(tmp_path: Path) -> None:
    """Wheels are those of the function's machine and Python, not of this one; caches stay behind."""
    source = tmp_path / "bakery"
    (source / "__pycache__").mkdir(parents=True)
    (source / "__init__.py").write_text("")
    (source / "__pycache__" / "__init__.cpython-310.pyc").write_text("")
    (tmp_path / "single.py").write_text("")
    wheel(tmp_path, "cp313-cp313-manylinux_2_28_aarch64")
    (tmp_path / "requirements.txt").write_text(f"--no-index\n--find-links {tmp_path}\nyeast\n")
    package = Package([source, tmp_path / "single.py"], tmp_path / "requirements.txt", bytecode=False)
    into = tmp_path / "built"
    package.build(into, runtime="python3.13", architecture="arm64")
    found = {path.relative_to(into).as_posix() for path in into.rglob("*.py*")}
    assert found == {"bakery/__init__.py", "single.py", "yeast.py"}
    with pytest.raises(ImproperlyConfigured, match=r"for python3.13 on x86_64 cannot be fetched:\n.*yeast"):
        package.build(tmp_path / "other", runtime="python3.13", architecture="x86_64")


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The error names the path."""
    with pytest.raises(ImproperlyConfigured, match="'no/such' does not exist"):
        build(tmp_path, Package(["no/such"]))


def test_a_directory_with_something_in_it_is_refused(tmp_path: Path) -> None:
    """What an earlier build has kept of a library would stay as it is."""
    (tmp_path / "old.py").write_text("")
    with pytest.raises(ImproperlyConfigured, match="is not empty; remove what was built there before"):
        build(tmp_path, Package([]))


def test_failed_build_leaves_the_directory_empty(tmp_path: Path) -> None:
    """What stands in the way is mended, and the same command builds there."""
    (tmp_path / "bakery").mkdir()
    (tmp_path / "bakery" / "__init__.py").write_text("")
    package, into = Package([tmp_path / "bakery", tmp_path / "later.py"], bytecode=False), tmp_path / "built"
    with pytest.raises(ImproperlyConfigured, match=r"later.py' does not exist"):
        build(into, package)
    assert not list(into.iterdir())
    (tmp_path / "later.py").write_text("")
    build(into, package)
    assert (into / "bakery" / "__init__.py").exists()


# -- projects


def botocore(folder: Path) -> Path:
    """A wheel of a botocore with the models of three services."""
    path = folder / "botocore-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("botocore/__init__.py", "")
        for service in ("sqs", "sns", "ec2"):
            archive.writestr(f"botocore/data/{service}/2012-11-05/service-2.json", "{}")
        archive.writestr("botocore-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: botocore\nVersion: 1.0\n")
        archive.writestr(
            "botocore-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("botocore-1.0.dist-info/RECORD", "")
    return path


def project(folder: Path) -> Path:
    """A project as there are many: modules, data, a virtual environment, caches, and requirements without botocore."""
    files = {
        "tasks.py": "CLIENT = 'sns'\n", "shop/__init__.py": "", "shop/menu.json": "{}", "shop/.cache/x": "", ".env": "",
        "env/pyvenv.cfg": "", "env/lib/site.py": "", "node_modules/x.js": "", "__pycache__/tasks.cpython-310.pyc": "",
        "shop.egg-info/PKG-INFO": "", "requirements.txt": f"--no-index\n--find-links {folder}\nyeast\n",
    }  # fmt: skip
    for name, text in files.items():
        path = folder / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    wheel(folder, "py3-none-any")
    botocore(folder)
    return folder / "project"


def test_project_is_packed_as_it_is_with_botocore(tmp_path: Path) -> None:
    """Sources and data, the wheels of its requirements, and a botocore with the services that its code names."""
    folder = project(tmp_path)
    into = folder / "dist" / "function"
    kept = build(into, Package(project=folder, bytecode=False)).services
    assert kept is not None
    assert kept.services == {"sqs", "sns"}
    found = {path.relative_to(into).parts[0] for path in into.iterdir()}
    assert found == {
        "tasks.py", "shop", "yeast.py", "yeast-1.0.dist-info", "botocore", "botocore-1.0.dist-info", "requirements.txt",
    }  # fmt: skip
    assert {path.name for path in (into / "shop").iterdir()} == {"__init__.py", "menu.json"}
    # What was built here is not packed once more.
    again = tmp_path / "again"
    build(again, Package(project=folder, bytecode=False))
    assert not list((again / "dist").iterdir())


@pytest.mark.parametrize("behind", [False, True])
def test_hashes_of_a_project_stay_complete(tmp_path: Path, behind: bool) -> None:
    """pip refuses requirements without hashes beside those with, so botocore is not added to them."""
    folder = project(tmp_path)
    digest = hashlib.sha256((tmp_path / "yeast-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    text = f"--no-index\n--find-links {tmp_path}\nyeast==1.0 --hash=sha256:{digest}\n"
    (folder / "requirements.txt").write_text("-r base.txt\n" if behind else text)
    (folder / "base.txt").write_text(text)
    into = tmp_path / "built"
    assert build(into, Package(project=folder, bytecode=False)).services is None
    assert (into / "yeast.py").exists()
    (folder / "base.txt").write_text(text.replace(digest, "0" * 64))
    (folder / "requirements.txt").write_text("-r base.txt\n")
    with pytest.raises(ImproperlyConfigured, match="DO NOT MATCH") as refused:
        build(tmp_path / "other", Package(project=folder))
    assert "pip wheel" not in str(refused.value)


def test_words_about_hashes_are_no_hashes(tmp_path: Path) -> None:
    """A comment leaves no botocore out."""
    folder = project(tmp_path)
    with (folder / "requirements.txt").open("a") as file:
        file.write("# pins with --hash come later\n")
    assert build(tmp_path / "built", Package(project=folder, bytecode=False)).services is not None


def test_requirements_are_read_in_pip_s_encodings(tmp_path: Path) -> None:
    """UTF-16 with its mark, as PowerShell writes it; what is no text for pip is refused, and not with a traceback."""
    folder = project(tmp_path)
    text = (folder / "requirements.txt").read_text()
    (folder / "requirements.txt").write_bytes(text.encode("utf-16"))
    assert build(tmp_path / "built", Package(project=folder, bytecode=False)).services is not None
    (folder / "requirements.txt").write_bytes(f"# f\xfcr\n{text}".encode("latin-1"))
    with pytest.raises(ImproperlyConfigured, match=r"fetched:\nUnicodeDecodeError: .*\n.* save them as such$"):
        build(tmp_path / "other", Package(project=folder, bytecode=False))


def test_what_is_no_source_stays_behind(tmp_path: Path) -> None:
    """Links to nothing, sockets and pipes, wheels, Conda's environments, and packages with or without their models."""
    folder = project(tmp_path)
    for place in (folder, folder / "shop"):
        (place / "gone").symlink_to("nowhere")
        os.mkfifo(place / "pipe")
        wheel(place, "py3-none-any")
        (place / "conda" / "conda-meta").mkdir(parents=True)
        (place / "old" / "dispatcher").mkdir(parents=True)
        (place / "old" / "msgpack-1.0.dist-info").mkdir()
    into = tmp_path / "built"
    build(into, Package(project=folder, bytecode=False))
    names = {"gone", "pipe", "conda", "old", "yeast-1.0-py3-none-any.whl"}
    assert names.isdisjoint(path.name for path in into.rglob("*"))


def test_linked_directories_keep_the_name_of_the_link(tmp_path: Path) -> None:
    """By that one they are imported, here and in the function; so is one that is named as `.`."""
    (tmp_path / "shared_v2").mkdir()
    (tmp_path / "shared_v2" / "__init__.py").write_text("")
    folder = project(tmp_path)
    (folder / "shared").symlink_to("../shared_v2")
    build(tmp_path / "built", Package(project=folder, bytecode=False))
    assert (tmp_path / "built" / "shared" / "__init__.py").exists()
    assert not (tmp_path / "built" / "shared_v2").exists()
    build(tmp_path / "named", Package([folder / "shop" / ".." / "shared"], bytecode=False))
    assert [path.name for path in (tmp_path / "named").iterdir()] == ["shared"]


def test_files_that_cannot_be_copied_are_named(tmp_path: Path) -> None:
    """In one line with the reason."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImproperlyConfigured, match=r"^the package's files cannot be copied: .*pipe.* is a named pipe$"):
        build(tmp_path / "built", Package([tmp_path / "pipe"]))
    (tmp_path / "taken").write_text("")
    with pytest.raises(ImproperlyConfigured, match=r"directory cannot be made: .*File exists: .*taken"):
        build(tmp_path / "taken", Package([]))


def test_project_without_requirements_is_refused(tmp_path: Path) -> None:
    """The function would not even have dispatcher; the error says what to write."""
    folder = project(tmp_path)
    (folder / "requirements.txt").unlink()
    with pytest.raises(ImproperlyConfigured, match=r"requirements.txt': write one that names serverless-dispatcher"):
        build(tmp_path / "built", Package(project=folder))
    with pytest.raises(ImproperlyConfigured, match="'no/such' does not exist"):
        build(tmp_path / "built", Package(project="no/such"))


def test_package_without_its_app_is_refused(tmp_path: Path) -> None:
    """What is missing, dispatcher or the app's module, is named with the way to have it in."""
    with pytest.raises(ImproperlyConfigured, match=r"no module 'dispatcher': let requirements.txt name serverless-"):
        check_app(tmp_path, "shop.tasks:app")
    (tmp_path / "dispatcher").mkdir()
    with pytest.raises(ImproperlyConfigured, match=r"no module 'shop': .* infra\['code'\] says which directory"):
        check_app(tmp_path, "shop.tasks:app")
    (tmp_path / "shop.py").write_text("")
    check_app(tmp_path, "shop.tasks:app")


def test_wheels_that_are_missing_are_named_with_a_way_out(tmp_path: Path) -> None:
    """What has no wheel for the function's platform is in pip's words; then comes how to make one."""
    folder = project(tmp_path)
    (tmp_path / "yeast-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ImproperlyConfigured, match=r"(?s)cannot be fetched:\n.*yeast.*`pip wheel NAME -w wheels/`"):
        build(tmp_path / "built", Package(project=folder))


def test_release_that_is_missing_is_not_taken_for_a_wheel_that_is(tmp_path: Path) -> None:
    """A project that names dispatcher where there is no release of it hears how to name a clone."""
    folder = project(tmp_path)
    with (folder / "requirements.txt").open("a") as file:
        file.write("serverless-dispatcher\n")
    way = r"(?s)cannot be fetched:\n.*`serverless-dispatcher @ file:///path/to/clone`$"
    with pytest.raises(ImproperlyConfigured, match=way) as refused:
        build(tmp_path / "built", Package(project=folder))
    assert "pip wheel" not in str(refused.value)


# -- bytecode


def test_modules_run_from_bytecode_that_nobody_compares(tmp_path: Path) -> None:
    """Every module is compiled, is not compared with its source again, and names the place that Lambda has it at."""
    (tmp_path / "bakery").mkdir()
    (tmp_path / "bakery" / "__init__.py").write_text("def bake():\n    return bake.__code__.co_filename\n")
    (tmp_path / "broken.py").write_text("def\n")
    into = tmp_path / "built"
    build(into, Package([tmp_path / "bakery", tmp_path / "broken.py"]))
    source = into / "bakery" / "__init__.py"
    compiled = Path(importlib.util.cache_from_source(str(source)))
    assert compiled.read_bytes()[:8] == importlib.util.MAGIC_NUMBER + UNCHECKED_HASH
    assert b"/var/task/bakery/__init__.py" in compiled.read_bytes()
    assert not list((into / "__pycache__").glob("broken*"))
    source.write_text("raise SystemExit('compiled anew')")
    code = "import sys; sys.path.insert(0, '.'); import bakery; bakery.bake()"
    subprocess.run([sys.executable, "-I", "-c", code], cwd=into, check=True, timeout=60)


def test_bytecode_needs_the_runtime_s_python(tmp_path: Path) -> None:
    """Without it a package is refused with the ways out; an interpreter that is named must be of that version."""
    (tmp_path / "single.py").write_text("")
    package = Package([tmp_path / "single.py"])
    with pytest.raises(ImproperlyConfigured, match=r"there is no python3\.99, .*PATH.*--no-bytecode"):
        package.build(tmp_path / "built", runtime="python3.99", architecture="arm64")
    with pytest.raises(ImproperlyConfigured, match=r"is no Python 3\.99"):
        Package([tmp_path / "single.py"], python=sys.executable).build(
            tmp_path / "again", runtime="python3.99", architecture="arm64"
        )
    assert (
        not Package([tmp_path / "single.py"], bytecode=False)
        .build(tmp_path / "other", runtime="python3.99", architecture="arm64")
        .bytecode
    )


# -- the service models of botocore


@pytest.fixture
def small_botocore(tmp_path: Path) -> Path:
    """The data of some services in a package called botocore, as pip puts it beside the sources."""
    import botocore

    data = Path(botocore.__file__).with_name("data")
    package = tmp_path / "libraries" / "botocore"
    for name in (*OWN, "sns", "ses", "lambda"):
        version = max(path.name for path in (data / name).iterdir())
        shutil.copytree(data / name / version, package / "data" / name / version)
    (package / "__init__.py").write_text("")
    return package


@pytest.mark.parametrize(
    ("code", "kept"),
    [
        ("import shop", OWN),
        ("import boto3\nboto3.client('sns')", OWN | {"sns"}),
        ("def topic(session):\n    return session.client(service_name='sns')", OWN | {"sns"}),
        ("SERVICE = 'lambda'", OWN | {"lambda"}),
        ("import boto3\nboto3.client(SERVICE)", None),
        ("import boto3\nboto3.client(**how)", None),
        ("from boto3 import client\nclient(SERVICE)", None),
        ("import boto3\nclients = map(boto3.client, NAMES)", None),
        ("import boto3, os\nmake = boto3.Session().client\nmake(os.environ['SVC'])", None),
        ("import boto3 as aws\nmake = aws.client", None),
        ("import boto3\ngetattr(boto3, 'client')(SERVICE)", None),
        ("import boto3\ngetattr(boto3, KIND, 'none')(SERVICE)", None),
        ("import boto3\nfor kind in ('client', 'resource'):\n    getattr(boto3.Session(), kind)(SERVICE)", None),
        ("import boto3\nvars(boto3)['client'](SERVICE)", None),
        ("import operator, boto3\noperator.methodcaller('client', SERVICE)(boto3)", None),
        ("import functools, boto3\nmake = functools.partial(boto3.Session().client, region_name='us-east-1')", None),
        ("from boto3 import client\nmake = client", None),
        ("from boto3 import client as make\nmake(SERVICE)", None),
        ("import boto3\nboto3.client.__call__(SERVICE)", None),
        ("from session import own\nown.client(SERVICE)", None),
        (
            "import boto3\nclass Own(boto3.Session):\n    def trace(self):\n        self.client = traced(self.client)",
            None,
        ),
        (
            "class Mail:\n    def get(self):\n        self.client = boto3.client('sns')\n        return self.client",
            OWN | {"sns"},
        ),
        ("import boto3\nclient = boto3.client('sns')\nclient.publish()\nlog(client)", OWN | {"sns"}),
        ("import boto3 as\n", None),
    ],
)
def test_services_that_the_code_may_use_stay(
    tmp_path: Path, small_botocore: Path, code: str, kept: frozenset[str] | None
) -> None:
    """Those that it names, and all of them where it makes clients of what it does not spell out."""
    (tmp_path / "tasks.py").write_text(code)
    contents = build(tmp_path / "built", Package([tmp_path / "tasks.py", small_botocore], bytecode=False))
    assert contents.services is not None
    assert contents.services.services == kept
    there = {path.name for path in (tmp_path / "built" / "botocore" / "data").iterdir() if path.is_dir()}
    assert there == (kept or OWN | {"sns", "ses", "lambda"})


@pytest.mark.parametrize(
    ("files", "kept"),
    [
        ({"core.py": "import boto3", "mail.py": "def send(session):\n    session.client('sns')"}, OWN | {"sns"}),
        ({"core.py": "import boto3", "make.py": "def make(session, name):\n    return session.client(name)"}, None),
        ({"core.py": "import aiobotocore.session as aio\nmake = aio.get_session().create_client"}, None),
        ({"core.py": "import boto3", "http.py": "def send(self):\n    return self.client"}, OWN),
        ({"http.py": "def get(name):\n    return pool.client(name)"}, OWN),
        ({"fast.cpython-313-aarch64-linux-gnu.so": "boto3"}, None),
        ({"fast.cpython-313-aarch64-linux-gnu.so": ""}, OWN),
    ],
)
def test_services_that_libraries_may_use_stay(
    tmp_path: Path, small_botocore: Path, files: dict[str, str], kept: frozenset[str] | None
) -> None:
    """All files of a library of which one speaks of boto are read, and what cannot be read keeps all."""
    library = tmp_path / "made" / "storage"
    library.mkdir(parents=True)
    for name, text in files.items():
        (library / name).write_text(text)
    shutil.copytree(small_botocore, tmp_path / "made" / "botocore")
    found = trim(tmp_path / "made", (), None)
    assert found is not None
    assert found.services == kept


def test_models_that_powertools_uses_stay(tmp_path: Path, small_botocore: Path) -> None:
    """It makes all its clients on the spot, though it hands them around: a package with it is still trimmed."""
    import aws_lambda_powertools

    library = Path(aws_lambda_powertools.__file__).parent
    shutil.copytree(library, tmp_path / "made" / library.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(small_botocore, tmp_path / "made" / "botocore")
    (tmp_path / "made" / "botocore" / "data" / "ssm").mkdir()
    found = trim(tmp_path / "made", (), None)
    assert found is not None
    assert found.services is not None
    assert "ssm" in found.services
    assert "ses" not in found.services


@pytest.mark.parametrize(("services", "kept"), [("all", None), (["ses"], OWN | {"ses"})])
def test_services_are_kept_as_asked(
    tmp_path: Path, small_botocore: Path, services: Any, kept: frozenset[str] | None
) -> None:
    """By name beside our own, or all of them."""
    contents = build(tmp_path / "built", Package([small_botocore], services=services, bytecode=False))
    assert contents.services is not None
    assert contents.services.services == kept


@pytest.mark.parametrize(
    ("services", "reason"),
    [(["smtp"], "botocore knows no service 'smtp'"), ("sns", "is a list of services, or 'all', not 'sns'")],
)
def test_services_that_cannot_be_kept_are_refused(
    tmp_path: Path, small_botocore: Path, services: Any, reason: str
) -> None:
    """One that botocore does not know, and a text that is taken for a list."""
    with pytest.raises(ImproperlyConfigured, match=reason):
        build(tmp_path / "built", Package([small_botocore], services=services))


def test_models_lose_their_documentation_and_nothing_else(tmp_path: Path, small_botocore: Path) -> None:
    """Operations, shapes and members stay, those that are called ``documentation`` too; files are plain JSON."""
    import botocore.loaders

    whole = botocore.loaders.Loader()
    build(tmp_path / "built", Package([small_botocore], services="all", bytecode=False))
    data = tmp_path / "built" / "botocore" / "data"
    own = botocore.loaders.Loader(extra_search_paths=[str(data)], include_default_search_paths=False)
    for service in ("sqs", "dynamodb", "lambda"):
        for kind in ("service-2", "endpoint-rule-set-1", "paginators-1"):
            expected = whole.load_service_model(service, kind)
            assert _undocumented(own.load_service_model(service, kind)) == _undocumented(expected)
        assert '"documentation": "' not in json.dumps(own.load_service_model(service, "service-2"))
    assert not list(data.rglob("*.gz"))
    assert not list(data.rglob("examples*"))


def _undocumented(value: object) -> object:
    """Return a model without texts called documentation, wherever they are."""
    if isinstance(value, dict):
        return {
            key: _undocumented(each)
            for key, each in value.items()
            if not (key == "documentation" and isinstance(each, str))
        }
    return [_undocumented(each) for each in value] if isinstance(value, list) else value


# -- the package of this repository


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package that `infra/app.py` and `sam build` deploy, for this machine and Python; its sources raise."""
    into = tmp_path_factory.mktemp("shop")
    sources = [ROOT / "dispatcher", ROOT / "handlers", ROOT / "examples" / "shop.py"]
    Package(sources, ROOT / "handlers" / "requirements.txt").build(into, runtime=RUNTIME, architecture=ARCHITECTURE)
    spoil_sources(into)
    return into


def run_in(package: Path, code: str) -> str:
    """Run code as a function would: the package alone, and no bytecode written."""
    variables = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(package), "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "DISPATCHER_APP": "shop:app",
        "DISPATCHER_BROKER_URL": "sqs://", "AWS_LAMBDA_FUNCTION_NAME": "shop",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-B", "-S", "-c", code], cwd=package, env=variables, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_handler_starts_from_bytecode_alone(shop: Path) -> None:
    """The app is loaded and the clients are made without reading a source."""
    assert "ready" in run_in(shop, "from handlers.worker import handler; print('ready', handler._environment)")


def test_client_of_a_service_left_out_says_how_to_keep_it(shop: Path) -> None:
    """Botocore's own error goes on with the setting, whoever makes the client."""
    code = (
        "import handlers.worker, botocore.session\n"
        "try: botocore.session.get_session().create_client('sns')\n"
        "except Exception as error: print(error)"
    )
    said = run_in(shop, code)
    assert "Unknown service: 'sns'. Valid service names are: dynamodb, s3, scheduler, sqs, sts." in said
    assert "keep one by Package(services=[...]), or --service NAME of python -m dispatcher.packaging" in said
