"""The engine and its API with handlers that only write down what they are asked; nothing sleeps."""

from __future__ import annotations

import json
import logging
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.sandbox.cloudformation.handler import Handler, HandlerError
from helpers.sandbox.endpoint import AwsError, Call
from helpers.sandbox.stacks import CloudFormation
from tests.sandbox.manual_clock import ManualClock

PARAMETER, GROUP, ROLE = "AWS::SSM::Parameter", "AWS::Logs::LogGroup", "AWS::IAM::Role"
TAGS = [{"Key": "project", "Value": "lab"}]


class Noting(Handler):
    """A resource whose property `Value` says how it behaves: bad, half (fails once it exists), stuck, waits, lingers
    (its deletion is waited for)."""

    service = "ssm"
    acted = "Name Type Value AssumeRolePolicyDocument RoleName Path"
    attributes = "Arn Value"

    def __init__(self, kind, world):
        self.type, self.world = kind, world
        self.name = "RoleName" if kind == ROLE else "Name"

    def create(self, ctx, p):
        self._note("create", ctx, p)
        if p.get("Value") == "bad":
            raise HandlerError("a bad value", "InvalidRequest")
        self.world.count += 1
        physical = p.get(self.name) or f"{ctx.logical_id}-{self.world.count}"
        self.world.there[physical] = dict(p)
        ctx.initiated(physical)
        if p.get("Value") == "half":
            raise HandlerError("half made")
        if p.get("Value") == "waits":
            ctx.until(lambda: self.world.go, f"Resource {physical}", 3600)
        return physical

    def update(self, ctx, physical, old, new):
        self._note("update", ctx, new)
        if new.get("Value") in ("bad", "unloved") or self.world.broken:
            raise HandlerError("a bad value", "InvalidRequest")
        if new.get("Value") == "waits":
            ctx.until(lambda: self.world.go, f"Resource {physical}", 3600)
        self.world.there[physical] = dict(new)

    def delete(self, ctx, physical, p):
        self._note("delete", ctx, p)
        if p.get("Value") == "stuck":
            raise HandlerError("still in use")
        if p.get("Value") == "lingers":
            looks = iter([False])
            ctx.until(lambda: next(looks, True), f"Resource {physical}", 3600)
        del self.world.there[physical]

    def describe(self, ctx, physical, p):
        return {"Arn": f"arn:{physical}", "Value": p.get("Value")}

    def _note(self, verb, ctx, p):
        self.world.calls.append((verb, ctx.logical_id))
        self.world.tags[ctx.logical_id] = self.tags(ctx.tags, p)


class World:
    def __init__(self, start=lambda name, work: work()):
        self.calls, self.there, self.tags, self.count, self.go, self.broken = [], {}, {}, 0, False, False
        self.clock = ManualClock()
        handlers = {kind: Noting(kind, self) for kind in (PARAMETER, GROUP, ROLE)}
        self.formation = CloudFormation(
            self.clock,
            lambda service, region: SimpleNamespace(),
            start=start,
            wait=self._wait,
            handlers=handlers,
        )
        self.operations = self.formation.operations()

    def _wait(self, seconds):
        self.clock.advance(seconds * self.clock.speed)

    def __call__(self, operation, region="us-east-1", **params):
        call = Call("cloudformation", operation, region, params, dict)
        return self.operations["cloudformation", operation](call)

    def create(self, resources, name="s", **params):
        return self("CreateStack", StackName=name, TemplateBody=body(resources), **params)["StackId"]

    def update(self, resources, name="s", **params):
        self("UpdateStack", StackName=name, TemplateBody=body(resources), **params)

    def stack(self, name="s"):
        return self("DescribeStacks", StackName=name)["Stacks"][0]

    def story(self, name="s", since=0):
        """(logical id, status) of the events, oldest first; the stack is "s"."""
        return [(one["LogicalResourceId"], one["ResourceStatus"]) for one in self.events(name)[since:]]

    def events(self, name="s"):
        return list(reversed(self("DescribeStackEvents", StackName=name)["StackEvents"]))

    def why(self, logical, status, name="s"):
        return next(
            one.get("ResourceStatusReason")
            for one in reversed(self.events(name))
            if (one["LogicalResourceId"], one["ResourceStatus"]) == (logical, status)
        )


@pytest.fixture
def world():
    return World()


def body(resources, **sections):
    return json.dumps({"Resources": resources, **sections})


def one(value="x", depends=None, **properties):
    definition = {"Type": PARAMETER, "Properties": {"Type": "String", "Value": value, **properties}}
    return {**definition, "DependsOn": depends} if depends else definition


def ref(name):
    return {"Ref": name}


def att(name, attribute="Value"):
    return {"Fn::GetAtt": [name, attribute]}


def refused(world, operation, **params):
    with pytest.raises(AwsError) as caught:
        world(operation, **params)
    return caught.value.code, caught.value.message


# --- create -------------------------------------------------------------------------------------------------------


def test_create_tells_every_step_in_order(world):
    stack_id = world.create({"B": one(ref("A")), "A": one()})
    assert world.story() == [
        ("s", "CREATE_IN_PROGRESS"),
        *(("A", "CREATE_IN_PROGRESS"), ("A", "CREATE_IN_PROGRESS"), ("A", "CREATE_COMPLETE")),
        *(("B", "CREATE_IN_PROGRESS"), ("B", "CREATE_IN_PROGRESS"), ("B", "CREATE_COMPLETE")),
        ("s", "CREATE_COMPLETE"),
    ]
    reasons = [event.get("ResourceStatusReason") for event in world.events()]
    assert reasons[:4] == ["User Initiated", None, "Resource creation Initiated", None]
    assert world.there["B-2"]["Value"] == "A-1"
    assert stack_id.startswith("arn:aws:cloudformation:us-east-1:123456789012:stack/s/")
    resources = world("DescribeStackResources", StackName="s")["StackResources"]
    assert [(r["LogicalResourceId"], r["PhysicalResourceId"], r["ResourceStatus"]) for r in resources] == [
        *(("A", "A-1", "CREATE_COMPLETE"), ("B", "B-2", "CREATE_COMPLETE"))
    ]
    assert world("ListStackResources", StackName="s")["StackResourceSummaries"][1]["LogicalResourceId"] == "B"
    detail = world("DescribeStackResource", StackName="s", LogicalResourceId="A")["StackResourceDetail"]
    assert detail["PhysicalResourceId"] == "A-1"


def test_outputs_parameters_and_tags_of_a_stack(world):
    template = body(
        {"A": one(ref("P"))},
        Description="d",
        Parameters={"P": {"Type": "String"}, "Secret": {"Type": "String", "NoEcho": True, "Default": "hush"}},
        Outputs={
            "Arn": {
                "Value": att("A", "Arn"),
                "Description": "o",
                "Export": {"Name": {"Fn::Sub": "${AWS::StackName}-a"}},
            }
        },
    )
    given = [{"ParameterKey": "P", "ParameterValue": "v"}]
    world("CreateStack", StackName="s", TemplateBody=template, Parameters=given, Tags=TAGS)
    stack = world.stack()
    assert stack["Outputs"] == [
        {"OutputKey": "Arn", "OutputValue": "arn:A-1", "Description": "o", "ExportName": "s-a"}
    ]
    assert {p["ParameterKey"]: p["ParameterValue"] for p in stack["Parameters"]} == {
        "P": "v",
        "Secret": "****",
    }
    assert (stack["Description"], stack["Tags"]) == ("d", TAGS)
    tags = world.tags["A"]
    assert tags["project"] == "lab"
    assert tags["aws:cloudformation:stack-name"] == "s"
    assert tags["aws:cloudformation:logical-id"] == "A"


def test_a_failed_create_is_rolled_back_in_reverse(world):
    world.create({"A": one(), "B": one(ref("A")), "C": one("bad", ["B"]), "D": one(depends="C")})
    assert world.calls == [
        ("create", "A"),
        ("create", "B"),
        ("create", "C"),
        ("delete", "B"),
        ("delete", "A"),
    ]
    assert world.stack()["StackStatus"] == "ROLLBACK_COMPLETE"
    told = world.why("s", "ROLLBACK_IN_PROGRESS")
    assert told == "The following resource(s) failed to create: [C]. Rollback requested by user."
    assert world.why("C", "CREATE_FAILED").startswith(
        'Resource handler returned message: "a bad value" (RequestToken: '
    )
    assert world.why("C", "CREATE_FAILED").endswith(", HandlerErrorCode: InvalidRequest)")
    code, message = refused(world, "UpdateStack", StackName="s", TemplateBody=body({"A": one("y")}))
    stack_id = world.stack()["StackId"]
    assert (code, message) == (
        "ValidationError",
        f"Stack:{stack_id} is in ROLLBACK_COMPLETE state and can not be updated.",
    )


def test_what_was_half_made_is_deleted_too(world):
    world.create({"A": one("half")})
    assert world.calls == [("create", "A"), ("delete", "A")]
    assert world.there == {}


@pytest.mark.parametrize(
    ("options", "status", "left"),
    [
        ({"OnFailure": "DO_NOTHING"}, "CREATE_FAILED", ["A-1"]),
        ({"DisableRollback": True}, "CREATE_FAILED", ["A-1"]),
        ({"OnFailure": "DELETE"}, "DELETE_COMPLETE", []),
        ({"OnFailure": "ROLLBACK"}, "ROLLBACK_COMPLETE", []),
    ],
)
def test_on_failure(world, options, status, left):
    stack_id = world.create({"A": one(), "B": one("bad", "A")}, **options)
    assert world.stack(stack_id)["StackStatus"] == status
    assert list(world.there) == left


def test_a_resource_that_never_gets_ready_times_out(world):
    world.create({"A": one("waits")})
    assert "Resource A-1 did not stabilize." in world.why("A", "CREATE_FAILED")
    assert "NotStabilized" in world.why("A", "CREATE_FAILED")


@pytest.mark.parametrize(
    ("options", "status"),
    [({}, "ROLLBACK_COMPLETE"), ({"OnFailure": "DO_NOTHING"}, "CREATE_FAILED")],
)
def test_a_creation_may_be_given_a_time_limit(world, options, status):
    """In AWS minutes; what is waited for then is cancelled, and all is rolled back as after any failure."""
    began = world.clock.time()
    world.create({"A": one("waits"), "B": one(depends="A")}, TimeoutInMinutes=10, **options)
    assert 600 <= world.clock.time() - began < 620
    stack = world.stack()
    assert (stack["StackStatus"], stack["TimeoutInMinutes"]) == (status, 10)
    assert world.why("A", "CREATE_FAILED") == "Resource creation cancelled"
    asked = "Rollback requested by user." if not options else ""
    after = "CREATE_FAILED" if options else "ROLLBACK_IN_PROGRESS"
    assert world.why("s", after) == f"Stack creation time exceeded the specified timeout. {asked}"
    assert ("create", "B") not in world.calls
    world.create({"A": one()}, "in-time", TimeoutInMinutes=10)
    assert world.stack("in-time")["StackStatus"] == "CREATE_COMPLETE"
    world.clock.advance(700)
    world.update({"A": one("2")}, "in-time")  # the limit is the creation's
    assert world.stack("in-time")["StackStatus"] == "UPDATE_COMPLETE"


def test_properties_are_validated_when_their_turn_comes(world):
    world.create({"A": one(Foo=1)})
    lead = "Properties validation failed for resource A with message:"
    assert world.why("A", "CREATE_FAILED") == f"{lead} #: extraneous key [Foo] is not permitted"
    assert ("create", "A") not in world.calls
    world.create({"A": {"Type": PARAMETER, "Properties": {"Bar": 1}}}, name="t")
    assert world.why("A", "CREATE_FAILED", "t").splitlines() == [
        lead,
        "#: extraneous key [Bar] is not permitted",
        "#: required key [Value] not found",
        "#: required key [Type] not found",
    ]
    world.create({"A": one(Tier="Standard")}, name="u")
    assert world.why("A", "CREATE_FAILED", "u") == f"the sandbox does not support Tier of {PARAMETER}"


def test_a_fault_of_ours_ends_in_a_failed_stack(world, monkeypatch, caplog):
    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr(Noting, "create", lambda self, ctx, p: {}["oops"])
    world.create({"A": one()})
    assert world.stack()["StackStatus"] == "ROLLBACK_COMPLETE"
    assert "KeyError: 'oops'" in world.why("A", "CREATE_FAILED")


# --- update -------------------------------------------------------------------------------------------------------


def test_an_update_touches_only_what_changes_and_what_follows_from_it(world):
    world.create({"A": one("1"), "B": one(att("A")), "C": one()})
    world.calls.clear()
    world.update({"A": one("2"), "B": one(att("A")), "C": one()})
    assert world.calls == [("update", "A"), ("update", "B")]
    assert world.there["B-2"]["Value"] == "2"
    assert world.stack()["StackStatus"] == "UPDATE_COMPLETE"
    assert world.story(since=11) == [
        ("s", "UPDATE_IN_PROGRESS"),
        *(("A", "UPDATE_IN_PROGRESS"), ("A", "UPDATE_COMPLETE")),
        *(("B", "UPDATE_IN_PROGRESS"), ("B", "UPDATE_COMPLETE")),
        *(("s", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"), ("s", "UPDATE_COMPLETE")),
    ]


def test_replacement_reaches_dependents_before_the_old_one_goes(world):
    world.create({"A": one(Name="first"), "B": one(ref("A"))})
    world.calls.clear()
    world.update({"A": one(Name="second"), "B": one(ref("A"))})
    assert world.calls == [("create", "A"), ("update", "B"), ("delete", "A")]
    assert world.there.keys() == {"second", "B-2"}
    assert world.there["B-2"]["Value"] == "second"
    requested = "Requested update requires the creation of a new physical resource; hence creating one."
    reasons = [e.get("ResourceStatusReason") for e in world.events() if e["LogicalResourceId"] == "A"]
    assert reasons[3:6] == [requested, "Resource creation Initiated", None]
    deleted = [e["PhysicalResourceId"] for e in world.events() if e["ResourceStatus"] == "DELETE_COMPLETE"]
    assert deleted == ["first"]


def test_a_custom_name_is_in_the_way_of_replacement(world):
    role = {"AssumeRolePolicyDocument": {}, "RoleName": "mine"}
    named = ["CAPABILITY_NAMED_IAM"]
    world.create({"A": {"Type": ROLE, "Properties": role}}, Capabilities=named)
    world.update({"A": {"Type": ROLE, "Properties": {**role, "Path": "/app/"}}}, Capabilities=named)
    assert world.why("A", "UPDATE_FAILED") == (
        "CloudFormation cannot update a stack when a custom-named resource requires replacing. "
        "Rename mine and update the stack again."
    )
    assert world.stack()["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert world.calls == [("create", "A")]


def test_what_left_the_template_is_deleted_last_in_reverse(world):
    world.create({"A": one(), "B": one(ref("A")), "C": one()})
    world.calls.clear()
    world.update({"C": one("y")})
    assert world.calls == [("update", "C"), ("delete", "B"), ("delete", "A")]
    assert [
        r["LogicalResourceId"] for r in world("DescribeStackResources", StackName="s")["StackResources"]
    ] == ["C"]


def test_a_failed_update_puts_everything_back(world):
    before = {"A": one("1"), "B": one(Name="first"), "C": one("c"), "Z": one("z")}
    world.create(before)
    was = {name: dict(p) for name, p in world.there.items()}
    world.calls.clear()
    after = {"A": one("2"), "B": one(Name="second"), "N": one("new", ["A", "B"]), "C": one("bad", "N")}
    world.update(after)
    assert world.there == was
    assert world.calls == [
        *(("update", "A"), ("create", "B"), ("create", "N"), ("update", "C")),
        *(("update", "A"), ("update", "C"), ("delete", "N"), ("delete", "B")),
    ]
    assert [story for story in world.story() if story[0] == "s"][2:] == [
        ("s", "UPDATE_IN_PROGRESS"),
        ("s", "UPDATE_ROLLBACK_IN_PROGRESS"),
        ("s", "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS"),
        ("s", "UPDATE_ROLLBACK_COMPLETE"),
    ]
    assert (
        world.why("s", "UPDATE_ROLLBACK_IN_PROGRESS") == "The following resource(s) failed to update: [C]. "
    )
    assert json.loads(world("GetTemplate", StackName="s")["TemplateBody"])["Resources"] == before
    world.update({**before, "A": one("3")})  # and it can be updated again
    assert world.stack()["StackStatus"] == "UPDATE_COMPLETE"


def test_a_rollback_that_fails_says_so_and_the_stack_can_still_be_deleted(world):
    stack_id = world.create({"A": one("1")})
    world.broken = True
    world.update({"A": one("2"), "N": one(depends="A")})
    assert world.stack()["StackStatus"] == "UPDATE_ROLLBACK_FAILED"
    world("DeleteStack", StackName="s")
    assert world.stack(stack_id)["StackStatus"] == "DELETE_COMPLETE"
    assert world.there == {}


@pytest.mark.parametrize("skipped", [[], ["C"]])
def test_a_rollback_that_failed_can_be_continued(world, skipped):
    """When the cause is mended it goes on where it failed; a resource that cannot be mended may be skipped."""
    before = {"A": one("1"), "C": one("c", "A")}
    world.create(before)
    cannot = "Stack:arn:"
    assert refused(world, "ContinueUpdateRollback", StackName="s")[1].startswith(cannot)
    world.update({"A": one("2"), "C": one("unloved", "A"), "N": one(depends="A")})
    assert world.stack()["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    was, update = dict(world.there), world.formation._engine.handlers[PARAMETER].update

    def breaks(ctx, physical, old, new):
        if new["Value"] == "c":
            raise HandlerError("not yet")
        update(ctx, physical, old, new)

    world.formation._engine.handlers[PARAMETER].update = breaks
    world.update({"A": one("2"), "C": one("unloved", "A"), "N": one(depends="A")})
    assert world.stack()["StackStatus"] == "UPDATE_ROLLBACK_FAILED"
    assert world.why("s", "UPDATE_ROLLBACK_FAILED") == "The following resource(s) failed to update: [C]. "
    assert refused(world, "UpdateStack", StackName="s", TemplateBody=body(before))[1].endswith(
        "is in UPDATE_ROLLBACK_FAILED state and can not be updated."
    )
    if not skipped:
        world.formation._engine.handlers[PARAMETER].update = update
    world.calls.clear()
    world("ContinueUpdateRollback", StackName="s", ResourcesToSkip=skipped)
    assert world.stack()["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert world.why("s", "UPDATE_ROLLBACK_IN_PROGRESS") == "User Initiated"
    assert world.calls == ([] if skipped else [("update", "C")])  # A is back already
    assert world.there == was


def test_without_rollback_a_failed_update_stays_and_is_taken_up_again(world):
    world.create({"A": one("1"), "B": one(depends="A")})
    world.update({"A": one("2"), "B": one("bad", "A")}, DisableRollback=True)
    assert (world.stack()["StackStatus"], world.there["A-1"]["Value"]) == ("UPDATE_FAILED", "2")
    world.update({"A": one("2"), "B": one("good", "A")})
    assert (world.stack()["StackStatus"], world.there["B-2"]["Value"]) == ("UPDATE_COMPLETE", "good")


def test_no_updates(world):
    world.create({"A": one()}, Tags=TAGS)
    no = ("ValidationError", "No updates are to be performed.")
    assert refused(world, "UpdateStack", StackName="s", TemplateBody=body({"A": one()})) == no
    assert refused(world, "UpdateStack", StackName="s", UsePreviousTemplate=True) == no


def test_new_tags_alone_are_an_update(world):
    world.create({"A": one()}, Tags=TAGS)
    world.update({"A": one()}, Tags=[{"Key": "project", "Value": "other"}])
    assert world.tags["A"]["project"] == "other"
    world.update({"A": one()}, Tags=[])
    assert "project" not in world.tags["A"]


def test_new_outputs_alone_are_an_update(world):
    world.create({"A": one()})
    world("UpdateStack", StackName="s", TemplateBody=body({"A": one()}, Outputs={"V": {"Value": ref("A")}}))
    assert world.stack()["Outputs"] == [{"OutputKey": "V", "OutputValue": "A-1"}]


def test_the_type_of_a_resource_cannot_change(world):
    world.create({"A": one()})
    code, message = refused(world, "UpdateStack", StackName="s", TemplateBody=body({"A": {"Type": GROUP}}))
    assert code == "ValidationError"
    assert message == (
        "Update of resource type is not permitted. The new template modifies resource type of the following "
        "resources: [A]"
    )


def test_previous_template_and_parameters(world):
    template = body(
        {"A": one(ref("P"))}, Parameters={"P": {"Type": "String"}, "Q": {"Type": "String", "Default": "q"}}
    )
    given = [{"ParameterKey": "P", "ParameterValue": "1"}]
    world("CreateStack", StackName="s", TemplateBody=template, Parameters=given)
    missing = refused(world, "UpdateStack", StackName="s", TemplateBody=template)
    assert missing == ("ValidationError", "Parameters: [P] must have values")
    given = [{"ParameterKey": "P", "UsePreviousValue": True}, {"ParameterKey": "Q", "ParameterValue": "r"}]
    changed = template.replace('"String", "Value"', '"StringList", "Value"')
    world("UpdateStack", StackName="s", TemplateBody=changed, Parameters=given)
    assert world.there["A-1"] == {"Type": "StringList", "Value": "1"}
    given = [{"ParameterKey": "P", "ParameterValue": "2"}]
    world("UpdateStack", StackName="s", UsePreviousTemplate=True, Parameters=given)
    assert world.there["A-1"]["Value"] == "2"


# --- delete -------------------------------------------------------------------------------------------------------


def test_a_deleted_stack_is_found_by_its_id_only(world):
    stack_id = world.create({"A": one(), "B": one(ref("A"))})
    world("DeleteStack", StackName="s")
    assert world.calls[-2:] == [("delete", "B"), ("delete", "A")]
    assert world.stack(stack_id)["StackStatus"] == "DELETE_COMPLETE"
    assert refused(world, "DescribeStacks", StackName="s") == (
        "ValidationError",
        "Stack with id s does not exist",
    )
    assert world("DescribeStacks")["Stacks"] == []
    assert (
        world("ListStacks", StackStatusFilter=["DELETE_COMPLETE"])["StackSummaries"][0]["StackId"] == stack_id
    )
    assert world("DeleteStack", StackName="s") == {}
    assert world.create({"A": one()}) != stack_id


def test_deletion_policies(world):
    kept = {**one(), "DeletionPolicy": "Retain"}
    stack_id = world.create({"A": kept, "B": {**one(), "DeletionPolicy": "RetainExceptOnCreate"}, "C": one()})
    world("DeleteStack", StackName="s")
    assert world.calls[3:] == [("delete", "C")]
    assert ("A", "DELETE_SKIPPED") in world.story(stack_id)
    assert world.stack(stack_id)["StackStatus"] == "DELETE_COMPLETE"
    world.calls.clear()
    world.create({"A": {**one(), "DeletionPolicy": "RetainExceptOnCreate"}, "B": one("bad", "A")}, name="t")
    assert world.calls[-1] == ("delete", "A")


def test_a_delete_that_fails_leaves_what_is_needed_and_can_retain(world):
    stack_id = world.create({"A": one(), "B": one("stuck", "A"), "C": one(depends="B")})
    world("DeleteStack", StackName="s")
    assert world.stack()["StackStatus"] == "DELETE_FAILED"
    assert world.stack()["StackStatusReason"] == "The following resource(s) failed to delete: [B, A]. "
    assert world.there.keys() == {"A-1", "B-2"}
    world("DeleteStack", StackName="s", RetainResources=["B"])
    assert world.stack(stack_id)["StackStatus"] == "DELETE_COMPLETE"
    assert world.there.keys() == {"B-2"}


def test_termination_protection(world):
    world.create({"A": one()}, EnableTerminationProtection=True)
    assert refused(world, "DeleteStack", StackName="s") == (
        "ValidationError",
        "Stack [s] cannot be deleted while TerminationProtection is enabled",
    )
    world("UpdateTerminationProtection", StackName="s", EnableTerminationProtection=False)
    world("DeleteStack", StackName="s")
    assert world.there == {}


# --- operations that meet -----------------------------------------------------------------------------------------


class Workers:
    """Runs each worker in a thread, and lets a test wait for them."""

    def __init__(self):
        self.threads, self.waiting, self.released = [], threading.Event(), threading.Event()

    def start(self, name, work):
        self.threads.append(threading.Thread(target=work, name=name))
        self.threads[-1].start()

    def join(self):
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()

    def wait(self, seconds):
        self.waiting.set()
        assert self.released.wait(10)


@pytest.fixture
def busy():
    workers = Workers()
    world = World(workers.start)
    world.formation._engine.wait, world.workers = workers.wait, workers
    yield world
    workers.released.set()
    workers.join()


def test_cancelling_an_update_rolls_it_back(busy):
    busy.create({"A": one("1")})
    busy.workers.join()
    busy.update({"A": one("waits")})
    assert busy.workers.waiting.wait(10)
    assert (
        "is in UPDATE_IN_PROGRESS state and can not be updated."
        in refused(busy, "UpdateStack", StackName="s", TemplateBody=body({"A": one("3")}))[1]
    )
    assert (
        "cannot be deleted while in status UPDATE_IN_PROGRESS"
        in refused(busy, "DeleteStack", StackName="s")[1]
    )
    busy("CancelUpdateStack", StackName="s")
    busy.workers.released.set()
    busy.workers.join()
    assert busy.why("A", "UPDATE_FAILED") == "Resource update cancelled"
    assert busy.stack()["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert busy.there["A-1"]["Value"] == "1"
    cannot = "CancelUpdateStack cannot be called from current stack status"
    assert refused(busy, "CancelUpdateStack", StackName="s") == ("ValidationError", cannot)


def test_a_cancellation_that_comes_too_late_spares_the_next_update(busy):
    busy.create({"A": one("1")})
    busy.workers.join()
    busy.go = False
    busy.update({"A": one("waits")})
    assert busy.workers.waiting.wait(10)
    busy.go = True  # ready by the next look, which is before the one at the cancellation
    busy("CancelUpdateStack", StackName="s")
    busy.workers.released.set()
    busy.workers.join()
    assert busy.stack()["StackStatus"] == "UPDATE_COMPLETE"
    busy.update({"A": one("2")})
    busy.workers.join()
    assert (busy.stack()["StackStatus"], busy.there["A-1"]["Value"]) == ("UPDATE_COMPLETE", "2")


def test_deleting_a_stack_that_is_being_created(busy):
    stack_id = busy.create({"A": one("waits"), "B": one(depends="A")})
    assert busy.workers.waiting.wait(10)
    busy("DeleteStack", StackName="s")
    busy.workers.released.set()
    busy.workers.join()
    assert busy.why("A", "CREATE_FAILED", stack_id) == "Resource creation cancelled"
    assert busy.stack(stack_id)["StackStatus"] == "DELETE_COMPLETE"
    assert busy.there == {}


def test_a_creation_that_is_deleted_and_past_its_time_limit_is_gone(busy):
    stack_id = busy.create({"A": one("lingers"), "B": one("waits", "A")}, TimeoutInMinutes=1)
    assert busy.workers.waiting.wait(10)
    busy("DeleteStack", StackName="s")
    busy.clock.advance(120)
    busy.workers.released.set()
    busy.workers.join()
    assert busy.why("B", "CREATE_FAILED", stack_id) == "Resource creation cancelled"
    assert busy.stack(stack_id)["StackStatus"] == "DELETE_COMPLETE"
    assert busy.there == {}


def test_a_cancellation_that_comes_too_late_spares_the_clean_up(busy):
    busy.create({"A": one("1"), "B": one("lingers")})
    busy.workers.join()
    busy.update({"A": one("waits")})
    assert busy.workers.waiting.wait(10)
    busy.go = True
    busy("CancelUpdateStack", StackName="s")
    busy.workers.released.set()
    busy.workers.join()
    assert busy.story()[-3:] == [
        *(("B", "DELETE_IN_PROGRESS"), ("B", "DELETE_COMPLETE")),
        ("s", "UPDATE_COMPLETE"),
    ]
    assert list(busy.there) == ["A-1"]


LOST = f"""\
Resources:
  A:
    Type: {PARAMETER}
Outputs:
  O:
    Value: !Ref Gone
"""


# --- what a caller is told ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "params", "message"),
    [
        ("DescribeStacks", {"StackName": "x"}, "Stack with id x does not exist"),
        ("DescribeStackEvents", {"StackName": "x"}, "Stack [x] does not exist"),
        ("DescribeStackResources", {"StackName": "x"}, "Stack with id x does not exist"),
        ("GetTemplate", {"StackName": "x"}, "Stack with id x does not exist"),
        ("UpdateStack", {"StackName": "x", "TemplateBody": body({"A": one()})}, "Stack [x] does not exist"),
        ("CreateStack", {"StackName": "y"}, "Either Template URL or Template Body must be specified."),
        (
            "CreateStack",
            {"StackName": "y", "TemplateURL": "http://x"},
            "the sandbox does not support TemplateURL",
        ),
        ("CreateStack", {"StackName": "a_b", "TemplateBody": body({"A": one()})}, "[a-zA-Z][-a-zA-Z0-9]*"),
        (
            "ValidateTemplate",
            {"TemplateBody": body({"A": {"Type": "AWS::Foo::Bar"}})},
            "Template format error: Unrecognized resource types: [AWS::Foo::Bar]",
        ),
        (
            "ValidateTemplate",
            {"TemplateBody": body({"A": {"Type": "AWS::Lambda::Function"}})},
            f"AWS has AWS::Lambda::Function, but the sandbox does not support it; it supports {ROLE}, {GROUP}, {PARAMETER}",
        ),
        ("ValidateTemplate", {"TemplateBody": " " * 60000}, "less than or equal to 51200"),
        ("ValidateTemplate", {"TemplateBody": "a:\n b: c: d"}, "YAML not well-formed. (line 2, column 6)"),
        *(
            (
                operation,
                {"StackName": "y", "TemplateBody": LOST} | more,
                "[Gone] in the Outputs block of the template (line 6)",
            )
            for operation, more in (
                ("ValidateTemplate", {}),
                ("CreateStack", {}),
                ("CreateChangeSet", {"ChangeSetName": "c", "ChangeSetType": "CREATE"}),
            )
        ),
        (
            "CreateStack",
            {
                "StackName": "y",
                "TemplateBody": f"Resources:\n  A:\n    Type: {PARAMETER}\n    DependsOn: [B, C]\n",
            },
            "[B, C] in the Resources block of the template (B: line 4, C: line 4)",
        ),
        (
            "CreateChangeSet",
            {"StackName": "x", "ChangeSetName": "c", "ChangeSetType": "IMPORT"},
            "the sandbox does not support change sets of type IMPORT",
        ),
    ],
)
def test_validation_errors(world, operation, params, message):
    code, told = refused(world, operation, **params)
    assert code == "ValidationError"
    assert message in told


def test_a_stack_that_exists(world):
    world.create({"A": one()})
    again = refused(world, "CreateStack", StackName="s", TemplateBody=body({"A": one()}))
    assert again == ("AlreadyExistsException", "Stack [s] already exists")
    world("CreateStack", region="eu-west-1", StackName="s", TemplateBody=body({"A": one()}))


ROLE_ = {"Type": ROLE, "Properties": {"AssumeRolePolicyDocument": {}}}
NAMED = {"Type": ROLE, "Properties": {"AssumeRolePolicyDocument": {}, "RoleName": "mine"}}


@pytest.mark.parametrize(
    ("role", "given", "missing"),
    [
        (ROLE_, [], "CAPABILITY_IAM"),
        (ROLE_, ["CAPABILITY_IAM"], None),
        (ROLE_, ["CAPABILITY_NAMED_IAM"], None),
        (NAMED, ["CAPABILITY_IAM"], "CAPABILITY_NAMED_IAM"),
        (NAMED, ["CAPABILITY_NAMED_IAM"], None),
    ],
)
def test_capabilities(world, role, given, missing):
    params = {"StackName": "s", "TemplateBody": body({"A": role}), "Capabilities": given}
    if missing is None:
        world("CreateStack", **params)
        assert world.stack()["Capabilities"] == given
    else:
        told = ("InsufficientCapabilitiesException", f"Requires capabilities : [{missing}]")
        assert refused(world, "CreateStack", **params) == told
        assert refused(world, "CreateChangeSet", ChangeSetName="c", ChangeSetType="CREATE", **params) == told


def test_template_summaries(world):
    parameters = {"P": {"Type": "Number", "Default": 1, "Description": "p", "AllowedValues": [1, 2]}}
    template = body({"A": one(), "R": ROLE_}, Parameters=parameters, Description="d")
    summary = world("GetTemplateSummary", TemplateBody=template)
    assert summary["Parameters"][0]["ParameterConstraints"] == {"AllowedValues": ["1", "2"]}
    assert summary["ResourceTypes"] == [ROLE, PARAMETER]
    valid = world("ValidateTemplate", TemplateBody=template)
    assert valid["Parameters"] == [
        {"ParameterKey": "P", "DefaultValue": "1", "NoEcho": False, "Description": "p"}
    ]
    assert valid["Capabilities"] == ["CAPABILITY_IAM"]
    assert valid["CapabilitiesReason"] == f"The following resource(s) require capabilities: [{ROLE}]"


# --- change sets --------------------------------------------------------------------------------------------------


def propose(world, resources, kind="UPDATE", name="c", **params):
    world(
        "CreateChangeSet",
        StackName="s",
        ChangeSetName=name,
        ChangeSetType=kind,
        TemplateBody=body(resources),
        **params,
    )
    return world("DescribeChangeSet", StackName="s", ChangeSetName=name, IncludePropertyValues=True)


def test_a_stack_made_by_a_change_set(world):
    described = propose(world, {"A": one()}, "CREATE", Description="why")
    assert (described["Status"], described["ExecutionStatus"]) == ("CREATE_COMPLETE", "AVAILABLE")
    assert described["Description"] == "why"
    (change,) = [one["ResourceChange"] for one in described["Changes"]]
    assert change == {
        "Action": "Add",
        "LogicalResourceId": "A",
        "ResourceType": PARAMETER,
        "Scope": [],
        "Details": [],
    }
    assert world.stack()["StackStatus"] == "REVIEW_IN_PROGRESS"
    assert world.calls == []
    world("ExecuteChangeSet", StackName="s", ChangeSetName="c")
    assert world.stack()["StackStatus"] == "CREATE_COMPLETE"
    assert world.stack()["ChangeSetId"] == described["ChangeSetId"]
    assert world.story()[:2] == [("s", "REVIEW_IN_PROGRESS"), ("s", "CREATE_IN_PROGRESS")]
    told = "Stack [s] already exists and cannot be created again with the changeSet [d]."
    again = {
        "StackName": "s",
        "ChangeSetName": "d",
        "ChangeSetType": "CREATE",
        "TemplateBody": body({"A": one()}),
    }
    assert refused(world, "CreateChangeSet", **again) == ("ValidationError", told)


def test_a_change_set_without_changes_has_failed(world):
    world.create({"A": one()})
    described = propose(world, {"A": one()})
    assert (described["Status"], described["ExecutionStatus"]) == ("FAILED", "UNAVAILABLE")
    assert described["StatusReason"] == (
        "The submitted information didn't contain changes. Submit different information to create a change set."
    )
    code, message = refused(world, "ExecuteChangeSet", StackName="s", ChangeSetName="c")
    assert code == "InvalidChangeSetStatus"
    assert message.endswith("cannot be executed in its current status of [FAILED]")


def rows(described):
    """(action, resource, replacement, [(property, recreation, evaluation, source, cause)])"""
    return [
        (
            change["Action"],
            change["LogicalResourceId"],
            change.get("Replacement"),
            [
                (
                    detail["Target"].get("Name") or detail["Target"]["Attribute"],
                    detail["Target"]["RequiresRecreation"],
                    detail["Evaluation"],
                    detail["ChangeSource"],
                    detail.get("CausingEntity"),
                )
                for detail in change["Details"]
            ],
        )
        for change in (one["ResourceChange"] for one in described["Changes"])
    ]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (
            {"A": one("2")},
            [
                ("Modify", "A", "False", [("Value", "Never", "Static", "DirectModification", None)]),
                ("Remove", "B", None, []),
            ],
        ),
        (
            {"A": one("1", Name="n"), "B": one(ref("A")), "N": one()},
            [
                ("Modify", "A", "True", [("Name", "Always", "Static", "DirectModification", None)]),
                ("Modify", "B", "False", [("Value", "Never", "Static", "ResourceReference", "A")]),
                ("Add", "N", None, []),
            ],
        ),
    ],
)
def test_changes(world, after, expected):
    world.create({"A": one("1"), "B": one(ref("A"))})
    assert rows(propose(world, after)) == expected


def test_an_attribute_of_what_changes_may_change_too(world):
    world.create({"A": one("1"), "B": one(Name=att("A", "Arn"))})
    assert rows(propose(world, {"A": one("2"), "B": one(Name=att("A", "Arn"))}))[1] == (
        *("Modify", "B", "Conditional"),
        [("Name", "Always", "Dynamic", "ResourceAttribute", "A.Arn")],
    )
    world("ExecuteChangeSet", StackName="s", ChangeSetName="c")
    assert ("B", "UPDATE_COMPLETE") not in world.story()  # the attribute was the same in the end


def test_changes_by_a_parameter_tags_and_metadata(world):
    template = {"Resources": {"A": one(ref("P"))}, "Parameters": {"P": {"Type": "String", "Default": "1"}}}
    world("CreateStack", StackName="s", TemplateBody=json.dumps(template))
    template["Resources"]["A"]["Metadata"] = {"why": "so"}
    world(
        "CreateChangeSet",
        StackName="s",
        ChangeSetName="c",
        TemplateBody=json.dumps(template),
        Parameters=[{"ParameterKey": "P", "ParameterValue": "2"}],
        Tags=TAGS,
    )
    described = world("DescribeChangeSet", StackName="s", ChangeSetName="c", IncludePropertyValues=True)
    assert rows(described)[0][3] == [
        ("Value", "Never", "Static", "ParameterReference", "P"),
        ("Value", "Never", "Dynamic", "DirectModification", None),
        ("Tags", "Never", "Static", "DirectModification", None),
        ("Metadata", "Never", "Static", "DirectModification", None),
    ]
    change = described["Changes"][0]["ResourceChange"]
    assert change["Scope"] == ["Metadata", "Properties", "Tags"]
    target = change["Details"][0]["Target"]
    assert (target["BeforeValue"], target["AfterValue"]) == ("1", "2")
    plain = world("DescribeChangeSet", StackName="s", ChangeSetName="c")
    assert "AfterValue" not in plain["Changes"][0]["ResourceChange"]["Details"][0]["Target"]


def test_executing_a_change_set_drops_the_others(world):
    world.create({"A": one("1")})
    propose(world, {"A": one("2")}, name="two")
    propose(world, {"A": one("3")}, name="three")
    assert len(world("ListChangeSets", StackName="s")["Summaries"]) == 2
    world("ExecuteChangeSet", StackName="s", ChangeSetName="three")
    assert [s["ExecutionStatus"] for s in world("ListChangeSets", StackName="s")["Summaries"]] == [
        "EXECUTE_COMPLETE"
    ]
    missing = refused(world, "DescribeChangeSet", StackName="s", ChangeSetName="two")
    assert missing == ("ChangeSetNotFound", "ChangeSet [two] does not exist")
    world("DeleteChangeSet", StackName="s", ChangeSetName="three")
    assert world("ListChangeSets", StackName="s")["Summaries"] == []


def test_an_update_makes_a_change_set_obsolete(world):
    world.create({"A": one("1")})
    propose(world, {"A": one("2")})
    world.update({"A": one("3")})
    code, message = refused(world, "ExecuteChangeSet", StackName="s", ChangeSetName="c")
    assert code == "InvalidChangeSetStatus"
    assert message.endswith("current status of [OBSOLETE]")


def test_a_stack_under_review_can_be_deleted(world):
    propose(world, {"A": one()}, "CREATE")
    world("DeleteStack", StackName="s")
    assert refused(world, "DescribeStacks", StackName="s")[1] == "Stack with id s does not exist"


# --- any graph ----------------------------------------------------------------------------------------------------

graphs = st.integers(1, 8).flatmap(
    lambda size: st.tuples(
        st.permutations(range(size)), st.sets(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)))
    )
)


@settings(max_examples=60)
@given(graphs)
def test_any_graph_is_created_in_order_and_deleted_in_reverse(graph):
    rank, edges = graph
    needs = {
        f"N{i}": sorted(f"N{b}" for a, b in edges if a == i and rank[b] < rank[a]) for i in range(len(rank))
    }
    world = World()
    world.create({name: one({"Fn::Join": [",", [ref(b) for b in before]]}) for name, before in needs.items()})
    made = [name for verb, name in world.calls if verb == "create"]
    world("DeleteStack", StackName="s")
    gone = [name for verb, name in world.calls if verb == "delete"]
    assert sorted(made) == sorted(gone) == sorted(needs)
    for name, befores in needs.items():
        for before in befores:
            assert made.index(before) < made.index(name)
            assert gone.index(name) < gone.index(before)
