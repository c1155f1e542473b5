"""`dispatcher infra check` on templates that people edited: what means the same is taken, what does not is named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from dispatcher import Dispatcher
from dispatcher.provision import plan, sam
from dispatcher.provision.check import check_template
from dispatcher.provision.intrinsics import normal
from dispatcher.provision.reading import UnreadableTemplate, parse
from dispatcher.provision.resources import template

Edit = Callable[[str], str]
IMAGE = "111122223333.dkr.ecr.eu-west-1.amazonaws.com/cut:7"


def _studio() -> Dispatcher:
    """An app with two queues, one of them read by an image in a network, a bucket and a producer elsewhere."""
    app = Dispatcher("studio", set_as_current=False)
    vpc = {"subnets": ["subnet-0a1b2c3d", "subnet-0a1b2c3e"], "security_groups": ["sg-0a1b2c3d"]}
    app.conf.infra = {
        "producers": ["444455556666"],
        "payload_days": 40,
        "queues": {"film": {"image": IMAGE, "vpc": vpc, "batch_size": 50, "batching_window": 10}},
    }
    app.conf.task_queues = ["default", "film"]
    return app


#: A second policy of a queue, which lets anybody send.
OPEN = """\
  Mine:
    Type: AWS::SQS::QueuePolicy
    Properties: {Queues: [!Ref FilmQueue], PolicyDocument: {Statement: {Effect: Allow, Principal: {AWS: ["*"]}}}}
"""
PLAN = plan(_studio(), spec="studio:app", stage="prod")
MADE = template(PLAN)
TEXT = sam.render(PLAN)


def put(old: str, new: str) -> Edit:
    """Replace the first occurrence, which there must be."""

    def edit(text: str) -> str:
        assert old in text, old
        return text.replace(old, new, 1)

    return edit


def without(pattern: str) -> Edit:
    """Leave out what a pattern matches."""
    return lambda text: re.sub(pattern, "", text, count=1, flags=re.MULTILINE)


def as_json(text: str) -> str:
    """The same in JSON."""
    return json.dumps(parse(text))


def found(edit: Edit) -> list[str]:
    """What is said of the edited template."""
    text = edit(TEXT)
    assert text != TEXT
    return [str(each) for each in check_template(MADE, text)]


@pytest.mark.parametrize(
    "edit",
    [
        put("Type: AWS::SQS::Queue\n", "Type: AWS::SQS::Queue   \n"),
        put("  DefaultQueue:\n", "\n  # mine\n  DefaultQueue:\n\n"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        as_json,
        put("!GetAtt DefaultLostQueue.Arn", '{"Fn::GetAtt": [DefaultLostQueue, Arn]}'),
        put("!GetAtt DefaultLostQueue.Arn", "{Fn::GetAtt: DefaultLostQueue.Arn}"),
        put("!GetAtt DefaultLostQueue.Arn", "!GetAtt [DefaultLostQueue, Arn]"),
        put("!GetAtt DefaultLostQueue.Arn", "!Sub ${DefaultLostQueue.Arn}"),
        put("!Ref ResultTable", "{Ref: ResultTable}"),
        put("!Ref ResultTable", "!Sub ['${ResultTable}', {}]"),
        put("!Ref ResultTable", "!Join ['', [!Ref ResultTable]]"),
        put("VisibilityTimeout: 360", "VisibilityTimeout: '360'"),
        put("VisibilityTimeout: 360", "VisibilityTimeout: 360.0"),
        put('Version: "2012-10-17"', "Version: 2012-10-17"),
        put("Resource: !GetAtt DefaultDeadQueue.Arn", "Resource: [!GetAtt DefaultDeadQueue.Arn]"),
        put("[subnet-0a1b2c3d, subnet-0a1b2c3e]", "[subnet-0a1b2c3e, subnet-0a1b2c3d]"),
        put("        Tasks:\n", "        Jobs:\n"),
        put("Resources:\n", "Resources:\n  Fn::ForEach::Mine: [A, [b], {'T${A}': {Type: AWS::SNS::Topic}}]\n"),
        put(
            "Transform: AWS::Serverless-2016-10-31", "Transform: [AWS::LanguageExtensions, AWS::Serverless-2016-10-31]"
        ),
        put("Resources:\n", "Globals: {Function: {Timeout: 3, MemorySize: 128}}\nResources:\n"),
        put("Resources:\n", "Globals: {Function: {Tags: {team: a}}}\nResources:\n"),
        put("Description: The least level", "Description: Whatever level"),
    ],
)
def test_what_means_the_same_is_no_difference(edit: Edit) -> None:
    """White space, anchors, forms of intrinsic functions, one or a list of it, words, and what is somebody's own."""
    assert found(edit) == []


def test_anchors_and_merged_keys_are_what_they_stand_for() -> None:
    """YAML's own shorthands, which people use to say things once."""
    first = TEXT.index("      BillingMode: PAY_PER_REQUEST\n")
    text = TEXT[:first] + "      <<: {BillingMode: &mode PAY_PER_REQUEST}\n" + TEXT[first:].partition("\n")[2]
    text += "\nMetadata: {Mode: *mode}\n"
    assert check_template(MADE, text) == []


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (put("VisibilityTimeout: 360", "VisibilityTimeout: 36"), "DefaultQueue.VisibilityTimeout: 36, but the app"),
        (without(r"^Conditions:\n(?: +.*\n)+"), "Conditions.TellsAlarms: is missing, though the template refers to it"),
        (put('AlarmTopic, ""', 'AlarmTopic, "x"'), "Conditions.TellsAlarms.Fn::Not[0].Fn::Equals[1]: "),
        (without(r"^  LogLevel:\n(?:    .*\n)+"), "Parameters.LogLevel: is missing, though the template refers to it"),
        (put("Default: INFO", "Default: DEBUG"), 'Parameters.LogLevel.Default: "DEBUG", but the app needs "INFO"'),
        (without(r"^  BrokerUrl:\n(?:    .*\n)+"), "Outputs.BrokerUrl: is missing"),
        (put(" Value: !Ref DefaultDeadQueue", " Value: !Ref DefaultQueue"), "Outputs.DefaultDeadQueueUrl.Value.Ref: "),
        (without(r"^  FilmQueuePolicy:\n(?:    .*\n)+"), "FilmQueuePolicy: is missing"),
        (without(r" +- Sid: BuryMessages\n(?: {16}.*\n)+"), "DefaultRole.Policies[RunTasks].PolicyDocument.Statement"),
        (without(r"^    DeletionPolicy: Retain\n"), 'PayloadBucket (DeletionPolicy): nothing, but the app'),
        (put("DeletionPolicy: Retain", "DeletionPolicy: Delete"), 'PayloadBucket (DeletionPolicy): "Delete", but'),
        (
            put("  ResultTable:\n", "  ResultTable:\n    Condition: TellsAlarms\n"),
            'ResultTable (Condition): "TellsAlarms", but the app needs nothing',
        ),
        (put("/cut:7", "/cut:8"), f'FilmFunction.Code.ImageUri: "{IMAGE[:-1]}8", but the app needs'),
        (put("Transform: AWS::Serverless-2016-10-31\n", ""), "Transform: nothing, but functions of SAM need"),
        (
            put("Resources:\n", "Globals: {Function: {Layers: [x]}}\nResources:\n"),
            'DefaultFunction.Layers: ["x"], but the app needs nothing',
        ),
        (
            put("Resources:\n", "Globals: {Function: {Environment: {Variables: {A: b}}}}\nResources:\n"),
            'DefaultFunction.Environment.Variables.A: "b", but the app needs nothing',
        ),
        (
            put("BatchingWindowInSeconds: 10", "BatchingWindowInSeconds: !Ref W"),
            'the mapping of FilmQueue to FilmFunction.MaximumBatchingWindowInSeconds: {"Ref": "W"}, but the app',
        ),
        (
            put("MessageRetentionPeriod: 345600", "MessageRetentionPeriod: !Ref K"),
            'DefaultQueue.MessageRetentionPeriod: {"Ref": "K"}, but the app needs 345600',
        ),
        (
            put("Resources:\n", f"Resources:\n{OPEN}"),
            "FilmQueue: has the policies Mine and FilmQueuePolicy, of which SQS keeps one (rule senders)",
        ),
        (
            put("Resources:\n", f"Resources:\n{OPEN}"),
            "Mine.None: anybody may send (rule senders)",
        ),
        (
            put("Resources:\n", "Resources:\n  Mine: {Type: AWS::SQS::QueuePolicy}\n"),
            "Resources: something that the rule encryption reads has a shape that it cannot read: KeyError",
        ),
    ],
)  # fmt: skip
def test_what_was_broken_by_hand_is_named(edit: Edit, said: str) -> None:
    """By its place, with both values; also in JSON."""
    assert any(line.startswith(said) for line in found(edit)), found(edit)
    assert any(line.startswith(said) for line in found(lambda text: as_json(edit(text)))), said


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (
            "Mine: {Type: AWS::Serverless::Function, Properties: {Events: {A: {Type: SQS}}}}",
            "the event A of Mine has no",
        ),
        ("Mine: {Type: AWS::Serverless::Function, Properties: {Events: [a]}}", "the Events of Mine must be a mapping"),
        ("Mine: &mine {Type: x, Properties: {a: *mine}}", "an alias of the template is inside of what it stands for"),
        ("Mine:", "the resource Mine must be a mapping with a Type, not None"),
    ],
)
def test_what_cannot_be_meant_is_refused(own: str, said: str) -> None:
    """By the resource whose shape is wrong, though it is somebody's own."""
    with pytest.raises(UnreadableTemplate, match=said):
        found(put("Resources:\n", f"Resources:\n  {own}\n"))


def test_a_template_with_more_transforms_is_renewed() -> None:
    """SAM's among them is enough."""
    text = TEXT.replace(f"Transform: {sam.TRANSFORM}", f"Transform:\n  - AWS::LanguageExtensions\n  - {sam.TRANSFORM}")
    assert sam.render(PLAN, text) == text


@pytest.mark.parametrize(
    ("value", "same"),
    [
        ({"Fn::Join": [":", ["arn", {"Ref": "A"}, {"Fn::GetAtt": ["B", "Arn"]}]]}, {"Fn::Sub": "arn:${A}:${B.Arn}"}),
        ({"Fn::Join": ["", ["a${b}"]]}, {"Fn::Sub": "a${!b}"}),
        ({"Fn::Join": ["", [{"Fn::ImportValue": "x"}]]}, {"Fn::Join": ["", [{"Fn::ImportValue": "x"}]]}),
        ({"Fn::Join": ["", {"Ref": "List"}]}, {"Fn::Join": ["", {"Ref": "List"}]}),
        ({"Fn::Sub": "plain"}, "plain"),
        ({"Fn::Sub": ["${x}", {"x": "1"}]}, {"Fn::Sub": ["${x}", {"x": "1"}]}),
        ({"Fn::GetAtt": "A.Outputs.B"}, {"Fn::GetAtt": ["A", "Outputs.B"]}),
    ],
)
def test_intrinsic_functions_have_one_form(value: Any, same: Any) -> None:
    """What cannot be worked out without a deployment stays as it is."""
    assert normal(value) == same
