"""A reference leads to the resource that it names, through parameters and outputs of nested stacks."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts.whole_stack import Resource, choices, references, resources_of, text_of

PARENT = """
Globals: { Function: { Timeout: 29, Tracing: Active } }
Resources:
  Key: { Type: AWS::KMS::Key }
  Part:
    Type: AWS::CloudFormation::Stack
    Properties:
      TemplateURL: parts/part.yaml
      Parameters: { KeyArn: !GetAtt Key.Arn, Name: first, Prefix: !Sub "${AWS::StackName}-a" }
  Again:
    Type: AWS::CloudFormation::Stack
    Properties: { TemplateURL: parts/part.yaml, Parameters: { KeyArn: none, Name: second, Prefix: b } }
  Function: { Type: AWS::Serverless::Function, Properties: { Timeout: 3, Role: !Ref Key } }
  Reader:
    Type: AWS::SSM::Parameter
    Properties:
      Value: !Sub ["${Name}/${Own}", { Name: !GetAtt Part.Outputs.QueueName, Own: !Ref Function.Version }]
"""
PART = """
Parameters:
  KeyArn: { Type: String }
  Name: { Type: String }
  Prefix: { Type: String }
  Seconds: { Type: Number, Default: 1 }
Conditions:
  IsFirst: !Equals [!Ref Name, first]
  HasKey: !Not [!Equals [!Ref KeyArn, none]]
  Fast: !Equals [!Ref Seconds, "1"]
Resources:
  Queue:
    Type: AWS::SQS::Queue
    Condition: Wanted
    Properties:
      KmsMasterKeyId: !Ref KeyArn
      QueueName: !Sub ${Prefix}-${Name}
      Tags: [!If [Wanted, !GetAtt Other.Arn, !Ref AWS::NoValue]]
  Other: { Type: AWS::SQS::Queue }
  Chosen:
    Type: AWS::SSM::Parameter
    Properties: { Value: !If [IsFirst, 1, 2], Type: !If [HasKey, 3, 4], Name: !If [Fast, 5, 6] }
Outputs:
  QueueName: { Value: !GetAtt Queue.QueueName }
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Resource]:
    directory: Path = tmp_path_factory.mktemp("templates")
    (directory / "parts").mkdir()
    (directory / "parent.yaml").write_text(PARENT)
    (directory / "parts" / "part.yaml").write_text(PART)
    return resources_of(str(directory / "parent.yaml"))


def test_every_use_of_a_template_is_found_with_what_it_was_given(stack: dict[str, Resource]) -> None:
    first, second = stack["Part.Queue"], stack["Again.Queue"]
    assert first.condition == "Wanted"
    assert first.properties["KmsMasterKeyId"] == {"Fn::GetAtt": ["Key", "Arn"]}
    assert second.properties["KmsMasterKeyId"] == "none"
    assert text_of(first.properties["QueueName"]) == "${AWS::StackName}-a-first"
    assert text_of(second.properties["QueueName"]) == "b-second"


def test_an_output_is_what_it_refers_to(stack: dict[str, Resource]) -> None:
    value = stack["Reader"].properties["Value"]
    assert list(references(value)) == ["Part.Queue", "Function"]
    assert text_of(value) == "Part.Queue.QueueName/Function.Version"


def test_both_branches_of_a_condition_count(stack: dict[str, Resource]) -> None:
    assert choices(stack["Part.Queue"].properties["Tags"]) == [{"Fn::GetAtt": ["Part.Other", "Arn"]}]


def test_a_condition_on_a_plain_value_is_decided(stack: dict[str, Resource]) -> None:
    both = {"Fn::If": ["HasKey", 3, 4]}  # which key there is, only a deployment knows
    assert stack["Part.Chosen"].properties == {"Value": 1, "Type": both, "Name": 5}
    assert stack["Again.Chosen"].properties == {"Value": 2, "Type": 4, "Name": 5}


def test_globals_are_what_a_function_does_not_say_itself(stack: dict[str, Resource]) -> None:
    assert stack["Function"].properties == {"Timeout": 3, "Tracing": "Active", "Role": {"Ref": "Key"}}
