"""Templates as CloudFormation documents them, and what it says of wrong ones."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.sandbox.cloudformation import template_language as language
from helpers.sandbox.cloudformation.template_language import NO_VALUE, UNKNOWN, Scope, TemplateError

SCOPE = Scope(
    {
        "AWS::Region": "us-east-1",
        "AWS::NoValue": NO_VALUE,
        "Name": "shop",
        "Ids": ["a", "b"],
        "Size": "3",
        "On": True,
    },
    mappings={"Sizes": {"us-east-1": {"small": "t3", "list": ["x", "y"]}}},
    conditions={"Holds": True, "Fails": False},
    ref=lambda name: f"ref-{name}",
    attribute=lambda name, attribute: f"{name}/{attribute}",
    zones=lambda region: [f"{region}a", f"{region}b"],
)


def yaml(text: str) -> dict:
    return language.parse(textwrap.dedent(text))


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("!Ref Name", "shop"),
        ("!Ref Ids", ["a", "b"]),
        ("!Ref Other", "ref-Other"),
        ("!GetAtt Role.Arn", "Role/Arn"),
        ("!GetAtt [Role, Arn]", "Role/Arn"),
        ("{'Fn::GetAtt': 'Stack.Outputs.X'}", "Stack/Outputs.X"),
        ("!Sub http://${Name}.${Lb.DNSName}:${Size}", "http://shop.Lb/DNSName:3"),
        ("!Sub ['${a}-${Name}', {a: !Ref Size}]", "3-shop"),
        ("!Sub '${!Literal} ${AWS::Region}'", "${Literal} us-east-1"),
        ("!Sub 'is ${On}'", "is true"),
        ("!Join ['-', [a, !Ref Name, 1, true]]", "a-shop-1-true"),
        ("!Join [',', !Ref Ids]", "a,b"),
        ("!Select [1, !Ref Ids]", "b"),
        ("!Select ['0', !GetAZs '']", "us-east-1a"),
        ("!Select [2, !Split ['/', 'service/cluster/name']]", "name"),
        ("!FindInMap [Sizes, !Ref 'AWS::Region', small]", "t3"),
        ("!GetAZs eu-west-1", ["eu-west-1a", "eu-west-1b"]),
        ("!If [Holds, 1, 2]", 1),
        ("!If [Fails, 1, !Sub '${Name}']", "shop"),
        ("[a, !Ref AWS::NoValue, b]", ["a", "b"]),
        ("{a: !If [Fails, x, !Ref AWS::NoValue], b: 1}", {"b": 1}),
        ("!Base64 hello", "aGVsbG8="),
        ("{Version: 2012-10-17}", {"Version": "2012-10-17"}),
    ],
)
def test_functions(written, value):
    assert language.resolve(yaml(f"x: {written}")["x"], SCOPE) == value


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            "!FindInMap [Sizes, eu-west-1, small]",
            "Template error: Unable to get mapping for Sizes::eu-west-1::small",
        ),
        ("!Select [5, !Ref Ids]", "Template error: Fn::Select cannot select nonexistent value at index 5"),
        ("!Join [a]", "Template error: every Fn::Join object requires a list of 2 parameters"),
        ("'{{resolve:ssm:x}}'", "the sandbox does not support dynamic references"),
        ("!Sub 'x${Ids}'", "a string is required"),
    ],
)
def test_wrong_functions(written, message):
    with pytest.raises(TemplateError) as caught:
        language.resolve(yaml(f"x: {written}")["x"], SCOPE)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "written",
    ["!Sub '${X}/a'", "!Join ['-', [a, !Ref X]]", "!Select [1, !Split ['/', !Ref X]]", "!GetAtt X.Arn"],
)
def test_what_is_known_only_after_applying_stays_unknown(written):
    assert language.unknown(language.resolve(yaml(f"x: {written}")["x"], Scope({})))


def test_a_list_of_known_and_unknown_can_be_selected_from():
    node = yaml("x: !Select [0, [a, !Ref X]]")["x"]
    assert language.resolve(node, Scope({})) == "a"
    assert language.resolve(yaml("x: !Select [1, [a, !Ref X]]")["x"], Scope({})) == UNKNOWN


def test_json_is_a_template_too():
    assert language.parse('{"Resources": {"A": {"Type": "T"}}}')["Resources"]["A"] == {"Type": "T"}


def test_of_two_equal_keys_the_last_wins():
    assert yaml("a: 1\na: 2") == {"a": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b: c", "Template format error: YAML not well-formed. (line 1, column 5)"),
        (
            "Resources:\n  A:\n    Type: x\n   Bad: y\n",
            "Template format error: YAML not well-formed. (line 4, column 4)",
        ),
        ('{"a": }', "Template format error: JSON not well-formed. (line 1, column 7)"),
        ("just text", "Template format error: unsupported structure."),
        ("a: &x 1\nb: *x", "Template error: YAML aliases are not allowed in CloudFormation templates"),
    ],
)
def test_unreadable(text, message):
    with pytest.raises(TemplateError) as caught:
        language.parse(text)
    assert str(caught.value) == message


GOOD = "{Type: AWS::SSM::Parameter, Properties: {Value: x}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Resources: {}", "Template format error: At least one Resources member must be defined."),
        ("Foo: 1\nResources: {A: {Type: T}}", "Invalid template property or properties [Foo]"),
        (
            "Resources: {A: {Properties: {}}}",
            "[/Resources/A] Every Resources object must contain a Type member.",
        ),
        ("Resources: {a-b: {Type: T}}", "Template format error: Resource name a-b is non alphanumeric."),
        ("Resources: {A: {Type: T, Foo: 1}}", "Invalid template resource property 'Foo'"),
        (
            "Resources: {A: {Type: T, Properties: }}",
            "[/Resources/A/Properties] 'null' values are not allowed in templates",
        ),
        (
            "Resources: {A: {Type: T, Properties: {x: !Ref B, y: !Sub '${C}'}, DependsOn: D}}",
            "Template format error: Unresolved resource dependencies [B, C, D] in the Resources block of the template",
        ),
        (
            f"Resources: {{A: {GOOD}}}\nOutputs: {{O: {{Value: !Ref Gone}}}}",
            "Template format error: Unresolved resource dependencies [Gone] in the Outputs block of the template",
        ),
        (
            "Resources: {A: {Type: T, Properties: {x: !GetAtt B.Arn}}}",
            "Template error: instance of Fn::GetAtt references undefined resource B",
        ),
        (
            f"Resources: {{A: {GOOD}}}\nOutputs: {{O: {{Value: !GetAtt A.Foo}}}}",
            "Template error: resource A does not support attribute type Foo in Fn::GetAtt",
        ),
        (
            "Resources: {A: {Type: T, Condition: C}}",
            "Template format error: Unresolved condition dependency C in the Resources block of the template",
        ),
        (
            "Resources: {A: {Type: T, Properties: {x: !Ref B}}, B: {Type: T, DependsOn: [A]}, C: {Type: T, DependsOn: B}}",
            "Circular dependency between resources: [A, B]",
        ),
        (
            "Resources: {A: {Type: T, Properties: {x: !Foo 1}}}",
            "Encountered unsupported function: Fn::Foo Supported",
        ),
        (
            "Resources: {A: {Type: T, Properties: {x: !ImportValue 1}}}",
            "the sandbox does not support Fn::ImportValue",
        ),
        ("Transform: X\nResources: {A: {Type: T}}", "the sandbox does not support the section Transform"),
        ("Resources: {A: {Type: T, DeletionPolicy: Snapshot}}", "DeletionPolicy 'Snapshot' is not supported"),
        (
            "Resources: {A: {Type: T}}\nOutputs: {O: {}}",
            "Output O is malformed. The Value field is required.",
        ),
    ],
)
def test_wrong_templates(text, message):
    attributes = {"AWS::SSM::Parameter": {"Type", "Value"}}
    with pytest.raises(TemplateError) as caught:
        language.check(language.parse(text), attributes.get)
    assert message in str(caught.value)


ASKING = """\
Resources:
  A:
    Type: T
    DependsOn: [B, Depended]
    Properties:
      Gone: text
      x: !Ref Gone
      y: !GetAtt Lost.Arn
      z: {"Fn::GetAtt": [Missed, Arn]}
      text: !Sub |
        first
        ${Hidden.Arn} and ${!Literal}
      w: {Ref: Other}
      v: !GetAtt [Listed, Arn]
"""


@pytest.mark.parametrize(
    ("name", "line"),
    [
        *(("Depended", 4), ("Gone", 7), ("Lost", 8), ("Missed", 9), ("Hidden", 12), ("Other", 13)),
        *(("Listed", 14), ("Listed.Arn", 14), ("T", 3), ("Properties", 5)),
    ],
)
def test_the_line_that_refers_to_a_name(name, line):
    assert language.lines_of(ASKING, [name]) == {name: line}


def test_no_line_for_what_is_not_there():
    assert language.lines_of(ASKING, ["Literal", "Arn", "text of no line"]) == {}
    assert language.lines_of("a: b: c", ["a"]) == {}
    assert language.lines_of('{"Resources": {"A": {"Ref": "B"}}}', ["B"]) == {"B": 1}


@pytest.mark.parametrize(
    ("spec", "given", "message"),
    [
        ({}, None, "Parameters: [P] must have values"),
        ({"AllowedValues": ["a", "b"]}, "c", "Parameter 'P' must be one of AllowedValues"),
        ({"AllowedPattern": "[a-z]+"}, "A", "Parameter 'P' must match pattern [a-z]+"),
        (
            {"AllowedPattern": "[a-z]+", "ConstraintDescription": "small"},
            "A",
            "failed to satisfy constraint: small",
        ),
        ({"Type": "Number"}, "x", "Parameter 'P' must be a number"),
        ({"Type": "Number", "MinValue": 2}, "1", "Parameter 'P' must be a number not less than 2"),
        ({"Type": "Number", "MaxValue": "2"}, "3", "Parameter 'P' must be a number not greater than 2"),
        ({"MinLength": 2}, "a", "Parameter 'P' must contain at least 2 characters"),
        ({"MaxLength": 2}, "abc", "Parameter 'P' must contain at most 2 characters"),
        ({"Type": "CommaDelimitedList", "AllowedValues": ["a"]}, "a, b", "must be one of AllowedValues"),
    ],
)
def test_wrong_parameters(spec, given, message):
    with pytest.raises(TemplateError) as caught:
        language.parameter_values({"P": spec}, {} if given is None else {"P": given})
    assert message in str(caught.value)


def test_parameters_that_the_template_does_not_have():
    with pytest.raises(TemplateError, match=r"Parameters: \[X\] do not exist in the template"):
        language.parameter_values({}, {"X": "1"})


def test_defaults_are_text():
    assert language.parameter_values({"P": {"Default": 3}, "Q": {"Default": True}}, {}) == {
        "P": "3",
        "Q": "true",
    }


def test_conditions():
    body = yaml(
        """
        Conditions:
          Prod: !Equals [!Ref Name, shop]
          Big: !Not [!Equals [!Ref Size, 1]]
          Both: !And [!Condition Prod, {Condition: Big}]
          Either: !Or [!Equals [a, b], !Condition Both]
          Neither: !Not [!Condition Either]
        """
    )
    assert language.evaluate_conditions(body, SCOPE) == {
        **{"Prod": True, "Big": True, "Both": True, "Either": True, "Neither": False},
    }


def test_what_a_condition_leaves_out_is_no_dependency():
    resources = yaml(
        """
        A: {Type: T, Condition: Fails}
        B: {Type: T, Condition: Holds, Properties: {x: !If [Fails, !Ref A, 1], y: !If [Holds, !Ref C, 1]}}
        C: {Type: T}
        """
    )
    active = language.active(resources, SCOPE.conditions)
    assert language.dependencies(active) == {"B": {"C"}, "C": set()}


def test_references_of_every_kind():
    node = yaml(
        "x: [!Ref A, !GetAtt B.Arn, !Sub '${C} ${D.Name} ${!E} ${f}', !Sub ['${f}${G}', {f: !Ref H}]]"
    )
    assert set(language.references(node)) == {
        *(("A", None), ("B", "Arn"), ("C", None), ("D", "Name"), ("f", None), ("G", None), ("H", None)),
    }


graphs = st.integers(1, 12).flatmap(
    lambda size: st.tuples(
        st.permutations(range(size)),
        st.sets(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1))),
        st.lists(st.sampled_from([0.0, 1.0, 5.0]), min_size=size, max_size=size),
    )
)


@given(graphs)
def test_any_graph_without_a_circle_starts_in_an_order_that_respects_it(graph):
    rank, edges, takes = graph
    needs = {f"n{i}": {f"n{b}" for a, b in edges if a == i and rank[b] < rank[a]} for i in range(len(rank))}
    order = language.start_order(needs, lambda name: takes[int(name[1:])])
    assert sorted(order) == sorted(needs)
    assert all(
        order.index(before) < order.index(name) for name, befores in needs.items() for before in befores
    )


def test_what_takes_long_does_not_hold_up_what_needs_it_not():
    needs = {"balancer": set(), "listener": {"balancer"}, "cluster": set(), "service": {"cluster"}}
    slow = {"balancer": 150.0}
    assert language.start_order(needs, lambda name: slow.get(name, 0.0)) == [
        "balancer",
        "cluster",
        "service",
        "listener",
    ]
    assert language.start_order(needs) == ["balancer", "listener", "cluster", "service"]
