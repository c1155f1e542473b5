"""Writing a SAM template: reads back as meant, and leaves alone what others wrote."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher import Dispatcher
from dispatcher.cli.root import run
from dispatcher.exceptions import DispatcherError
from dispatcher.provision import Plan, plan, sam, yaml_text
from dispatcher.provision.check import check_template, compared, report, unfolded
from dispatcher.provision.marks import HandEdited
from dispatcher.provision.reading import UnreadableTemplate, parse
from dispatcher.provision.resources import template
from tests.provision.apps.press import app as press

TRANSFORM = f"Transform: {sam.TRANSFORM}\n"


@pytest.fixture(name="small")
def small_plan() -> Plan:
    """The plan of an app without tasks."""
    return plan(Dispatcher("shop", set_as_current=False), spec="shop:app")


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"])) | st.sampled_from(
    [
        "yes",
        "NULL",
        "1e3",
        "0x1f",
        "2012-10-17",
        "a: b",
        "a #b",
        "*",
        "&x",
        "!x",
        "- a",
        "~",
        "=",
        "<<",
        "x:",
        " x",
        "12:30",
    ]
)
values = st.recursive(
    texts | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(value=st.dictionaries(texts.filter(lambda key: key != "x"), values, min_size=1, max_size=3))
def test_text_reads_back_as_the_value(value: dict[str, Any]) -> None:
    """Whatever is written is read as the same by a YAML reader."""
    lines = [line for key, each in value.items() for line in yaml_text.lines(key, each, 0, {})]
    assert parse("x: 1\n" + "\n".join(lines)) == {"x": 1, **value}


@pytest.mark.parametrize("stage", [None, "prod"])
def test_template_reads_back_as_the_resources(stage: str | None) -> None:
    """Every property and output of the resources is in the text, by SAM's functions too."""
    planned = plan(press, spec="press:app", stage=stage)
    made = template(planned)
    text = sam.render(planned)
    assert not check_template(made, text)
    assert parse(text)["Outputs"].keys() == {output.id for output in made.outputs}
    assert not check_template(made, json.dumps(made.cloudformation()))


def test_reasons_stand_above_their_numbers() -> None:
    """A number's comment is on the lines right above it."""
    lines = sam.render(plan(press, spec="press:app")).splitlines()
    place = lines.index("      Timeout: 285")
    assert "press.cut may run for 280 s" in lines[place - 1]


def test_rewriting_changes_nothing() -> None:
    """A template that is up to date stays byte for byte."""
    planned = plan(press, spec="press:app")
    text = sam.render(planned)
    assert sam.render(planned, text) == text


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_what_others_wrote_survives(newline: str, small: Plan) -> None:
    """Resources, comments, odd spacing, line endings and sections of somebody else are kept byte for byte."""
    theirs = newline.join([
        "# our stack", TRANSFORM.strip(), "Globals:   # odd   spacing", "  Function: {Timeout: 3}", "", "Resources:",
        "    # four blanks", "    Photos:", "        Type: AWS::S3::Bucket   # ours", "", "Metadata: {x: 1}",
        "# the end",
    ])  # fmt: skip
    text = sam.render(small, theirs)
    assert _outside(text) == _outside_of(theirs)
    assert parse(text)["Resources"].keys() >= {"Photos", "DefaultQueue"}
    assert sam.render(small, text) == text
    assert ("\r\n" in text) == (newline == "\r\n")
    # Another plan renews what is ours, and nothing else.
    other = sam.render(plan(press, spec="press:app"), text)
    assert "VideoFunction" in other
    assert _outside(other) == _outside(text)


def _outside(text: str) -> list[str]:
    """Return the lines outside the marks, without the sections that were added for them."""
    kept, inside = [], False
    for line in text.split("\n"):
        if ">>> dispatcher infra sam" in line:
            inside = True
        elif "<<< dispatcher infra sam" in line:
            inside = False
        elif not inside:
            kept.append(line)
    return _outside_of("\n".join(kept))


def _outside_of(text: str) -> list[str]:
    added = {"Parameters:", "Conditions:", "Outputs:", ""}
    return [line for line in text.split("\n") if line.rstrip("\r") not in added]


def test_resource_moved_out_of_the_marks_is_somebody_s_own(small: Plan) -> None:
    """What stands outside under an id of ours is left out inside; checks look at it all the same."""
    text = sam.render(small) + "\n"
    own = (
        "Resources:\n  ResultTable:\n    Type: AWS::DynamoDB::Table\n"
        "    Properties: {BillingMode: PROVISIONED, KeySchema: []}\n"
    )
    moved = sam.render(small, text.replace("Resources:\n", own, 1), force=True)
    assert moved.count("  ResultTable:\n") == 1
    assert parse(moved)["Resources"]["ResultTable"]["Properties"]["BillingMode"] == "PROVISIONED"
    assert sam.owned(moved) == {"ResultTable"}
    said = report(check_template(template(small), moved))
    assert 'ResultTable.BillingMode: "PROVISIONED", but the app needs "PAY_PER_REQUEST"' in said
    assert "ResultTable: not on demand (rule table)" in said


def test_edit_between_the_marks_is_not_lost(small: Plan) -> None:
    """A change by hand is noticed by its checksum and named with the way out; --force gives it up."""
    text = sam.render(small).replace("MemorySize: 512", "MemorySize: 513", 1)
    with pytest.raises(HandEdited, match=r"Resources, lines \d+ to \d+: somebody changed .* --force"):
        sam.render(small, text)
    assert "MemorySize: 513" not in sam.render(small, text, force=True)


def test_command_writes_checks_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Written, up to date, edited: exit codes 0, 0 and 1, each with a line; --check shows the difference."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "requirements.txt").write_text("serverless-dispatcher\n")
    command = ["-A", "tests.provision.apps.press:app", "infra", "sam"]
    assert run(command) == 0
    assert run([*command, "--check"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "template.yaml written",
        "infra/sam/press/Makefile written",
        "template.yaml is up to date",
    ]
    path = tmp_path / "template.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("Timeout: 285", "Timeout: 20"), encoding="utf-8")
    assert run(command) == 1
    assert "somebody changed what is generated" in capsys.readouterr().err
    assert run([*command, "--check"]) == 1
    said = capsys.readouterr().out
    assert "-      Timeout: 20\n+      Timeout: 285" in said
    check = ["-A", "tests.provision.apps.press:app", "infra", "check", "--template", "template.yaml"]
    assert run(check) == 1
    assert "VideoFunction.Timeout: 20, but the app needs 285" in capsys.readouterr().out
    assert run([*command, "--force"]) == 0
    assert run(check) == 0


def test_command_shows_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    """Tables of queues, tasks and entries; with --json the plan itself."""
    command = ["-A", "tests.provision.apps.press:app", "infra", "plan", "--stage", "prod"]
    assert run(command) == 0
    said = capsys.readouterr().out
    for words in (
        "orders.fifo",
        "285 s",
        "1710 s",
        "press.train",
        "cron(0 6 ? * MON-FRI *)",
        "note: no function reads gpu",
    ):
        assert words in said
    assert run([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["queues"][0]["name"] == "default"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Resources:\n  A: {Type: x}\n", "no `Transform: AWS::Serverless"),
        (TRANSFORM + "Resources: {}\n", "must be a block"),
        ('{"Transform": "AWS::Serverless-2016-10-31", "Resources": {}}', "which has to be YAML"),
        (TRANSFORM + "Resources:\n  # >>> dispatcher infra sam 0123456789ab\n  A: {Type: x}\n", "once each"),
    ],
)
def test_template_that_cannot_be_renewed_is_refused(text: str, words: str, small: Plan) -> None:
    """It is said why, and nothing is guessed."""
    with pytest.raises(DispatcherError, match=words):
        sam.render(small, text)


def test_broken_yaml_is_refused(small: Plan) -> None:
    """The place in the file is named."""
    with pytest.raises(UnreadableTemplate, match="line 2"):
        sam.render(small, "Resources:\n  - {\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Resources:\n  A: {Type: x}\n  B:\n    Type: x\n  A: {Type: y}\n", "the key 'A' of line 2 .* in line 5"),
        ("Resources: {}\nOutputs: {}\nResources: {}\n", "the key 'Resources' of line 1 .* in line 3"),
        ("Resources: {A: {Type: !Sub {a: 1, a: 2}}}\n", "the key 'a' of line 1 is there again in line 1"),
        ('{"Resources": {"A": {"Type": "x", "Type": "y"}}}', "the key 'Type' is there twice"),
    ],
)
def test_keys_that_are_there_twice_are_refused(text: str, said: str) -> None:
    """YAML and JSON readers would each take one of them, and not say which."""
    with pytest.raises(UnreadableTemplate, match=said):
        parse(text)


def test_merged_mappings_may_be_written_over() -> None:
    """A merge key is no key that is there twice, also where what is merged has one of its own."""
    text = "a: &a {x: 1}\nb: &b\n  <<: *a\n  x: 2\nc:\n  <<: *b\n  x: 3\nd: *b\n"
    assert parse(text) == {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 3}, "d": {"x": 2}}


def test_dates_are_texts() -> None:
    """As CloudFormation takes them, in the version of a policy or of the template."""
    assert parse("Version: 2012-10-17\nAt: !Sub 2012-10-17\n") == {
        "Version": "2012-10-17",
        "At": {"Fn::Sub": "2012-10-17"},
    }


def test_the_file_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the line in the file, whatever of it is ours; a changed one too."""
    monkeypatch.chdir(tmp_path)
    command = ["-A", "tests.provision.apps.press:app", "infra", "sam", "-o", "own.yaml"]
    assert run(command) == 0
    text = Path("own.yaml").read_text()
    Path("own.yaml").write_text(f"{text}Mappings: {{}}\nMappings: {{}}\n")
    line = text.count("\n") + 1
    capsys.readouterr()
    for option in ([], ["--check"]):
        assert run([*command, *option]) == 1
        assert f"own.yaml: the key 'Mappings' of line {line} is there again" in capsys.readouterr().err
    Path("own.yaml").write_text(text.replace("Timeout: 120", "Timeout: 121"))
    assert run(command) == 1
    assert "own.yaml: Resources, lines" in capsys.readouterr().err


def test_statements_are_compared_by_their_names() -> None:
    """Their order means nothing; one too many, one missing and one that differs are named, also where names repeat."""
    one, two = {"Sid": "One", "Action": "a"}, {"Sid": "Two", "Action": "b"}
    assert not list(compared("P", [one, two], [two, one]))
    assert report(compared("P", [one, two], [one])) == f"P[Two]: nothing, but the app needs {json.dumps(two)}"
    assert report(compared("P", [one], [{**one, "Action": "c"}])) == 'P[One].Action: "c", but the app needs "a"'
    assert report(compared("P", [one], [one, one])).startswith("P[One, again at 1]: ")
    assert report(compared("P", [one], [one, {"Action": "*"}])).startswith("P[nameless 1]: ")


def test_functions_of_sam_are_compared_as_plain_ones() -> None:
    """Events of a queue become mappings, whatever they are called; those of other kinds are left alone."""
    made = unfolded({
        "Resources": {
            "F": {"Type": sam.FUNCTION, "Properties": {"Timeout": 3, "Events": {
                "A": {"Type": "SQS", "Properties": {"Queue": {"Fn::GetAtt": ["Q", "Arn"]}, "BatchSize": 1}},
                "B": {"Type": "Api", "Properties": {}},
            }}},
        }
    })  # fmt: skip
    assert made["Resources"]["FA"]["Properties"] == {
        "EventSourceArn": {"Fn::GetAtt": ["Q", "Arn"]}, "FunctionName": {"Ref": "F"}, "BatchSize": 1,
    }  # fmt: skip
    assert made["Resources"]["F"] == {"Type": "AWS::Lambda::Function", "Properties": {"Timeout": 3}}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("VisibilityTimeout", "sixty", "VisibilityTimeout"),
        ("RedrivePolicy", {"maxReceiveCount": "x"}, "RedrivePolicy"),
    ],
)
def test_numbers_that_are_none_are_differences(key: str, value: Any, said: str) -> None:
    """What somebody wrote in place of a number is named like any other difference."""
    made = template(plan(Dispatcher("shop", set_as_current=False)))
    other = json.loads(json.dumps(made.cloudformation()))
    other["Resources"]["DefaultQueue"]["Properties"][key] = value
    assert any(said in str(each) for each in check_template(made, json.dumps(other)))


@pytest.mark.parametrize(
    "resources", [5, {"DefaultQueue": 5}, {"DefaultQueue": {}}, {"DefaultQueue": {"Type": "x", "Properties": "foo"}}]
)
def test_templates_of_a_wrong_shape_are_refused(resources: Any) -> None:
    """The message says which resource is no resource."""
    made = template(plan(Dispatcher("shop", set_as_current=False)))
    with pytest.raises(UnreadableTemplate, match=r"Resources must be|DefaultQueue"):
        check_template(made, json.dumps({"Resources": resources}))
