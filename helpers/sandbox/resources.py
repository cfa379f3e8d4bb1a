"""Stands in for CloudFormation's resource handlers: one small class per resource type, which calls the service's API. Here: IAM, Logs, scaling, alarms, ECR, SSM.

Differs: a load balancer is there at once, as everything is but an ECS service, which is waited for. A property is
either `acted` on (something in the sandbox behaves by it), `recorded` (kept, and shown by the service's Describe
calls), or refused. Tags of the stack reach a resource as on AWS.
"""

from __future__ import annotations

import json
from typing import Any

from helpers.sandbox.cloudformation import ecs_resources as ecs
from helpers.sandbox.cloudformation import network_resources as network
from helpers.sandbox.cloudformation.handler import (
    Context,
    Handler,
    Properties,
    call,
    changed,
    if_there,
    pairs,
)

# How long AWS needs, in AWS seconds. Nothing is slept: it only tells which independent resource begins before which,
# so that a service without DependsOn meets a target group without a load balancer, as it does on AWS. Not published
# (the usual 2–3 minutes of an ALB).
TAKES = {"AWS::ElasticLoadBalancingV2::LoadBalancer": 150.0}


class Role(Handler):
    type, service, name = "AWS::IAM::Role", "iam", "RoleName"
    acted = "RoleName Path"
    recorded = "AssumeRolePolicyDocument Policies ManagedPolicyArns Description MaxSessionDuration PermissionsBoundary"
    attributes = "Arn RoleId"

    def create(self, ctx: Context, p: Properties) -> str:
        iam, name = ctx.aws("iam"), p.get("RoleName") or ctx.name(64)
        call(iam, "CreateRole", p, RoleName=name, Tags=pairs(self.tags(ctx.tags, p)))
        ctx.initiated(name)
        self._policies(iam, name, {}, p)
        return name

    def update(self, ctx: Context, physical: str, old: Properties, new: Properties) -> None:
        iam = ctx.aws("iam")
        if new["AssumeRolePolicyDocument"] != old["AssumeRolePolicyDocument"]:
            document = json.dumps(new["AssumeRolePolicyDocument"])
            iam.update_assume_role_policy(RoleName=physical, PolicyDocument=document)
        description, longest = new.get("Description", ""), new.get("MaxSessionDuration", 3600)
        if (description, longest) != (old.get("Description", ""), old.get("MaxSessionDuration", 3600)):
            iam.update_role(RoleName=physical, Description=description, MaxSessionDuration=longest)
        if boundary := new.get("PermissionsBoundary"):
            iam.put_role_permissions_boundary(RoleName=physical, PermissionsBoundary=boundary)
        elif "PermissionsBoundary" in old:
            iam.delete_role_permissions_boundary(RoleName=physical)
        self._policies(iam, physical, old, new)
        self.retag(ctx, physical, old, new)

    def delete(self, ctx: Context, physical: str, p: Properties) -> None:
        iam = ctx.aws("iam")
        for policy in iam.list_attached_role_policies(RoleName=physical)["AttachedPolicies"]:
            iam.detach_role_policy(RoleName=physical, PolicyArn=policy["PolicyArn"])
        for policy in p.get(
            "Policies", []
        ):  # others are not this stack's: the role's deletion fails, as on AWS
            if_there(iam.delete_role_policy, RoleName=physical, PolicyName=policy["PolicyName"])
        iam.delete_role(RoleName=physical)

    def describe(self, ctx: Context, physical: str, p: Properties) -> dict[str, Any]:
        return ctx.aws("iam").get_role(RoleName=physical)["Role"]

    def _policies(self, iam: Any, name: str, old: Properties, new: Properties) -> None:
        for arn in set(new.get("ManagedPolicyArns", [])) - set(old.get("ManagedPolicyArns", [])):
            iam.attach_role_policy(RoleName=name, PolicyArn=arn)
        for arn in set(old.get("ManagedPolicyArns", [])) - set(new.get("ManagedPolicyArns", [])):
            if_there(iam.detach_role_policy, RoleName=name, PolicyArn=arn)
        before, now = (
            {one["PolicyName"]: one["PolicyDocument"] for one in p.get("Policies", [])} for p in (old, new)
        )
        for policy, document in now.items():
            iam.put_role_policy(RoleName=name, PolicyName=policy, PolicyDocument=json.dumps(document))
        for policy in before.keys() - now.keys():
            if_there(iam.delete_role_policy, RoleName=name, PolicyName=policy)


class RolePolicy(Handler):
    type, service = "AWS::IAM::Policy", "iam"
    recorded = "PolicyName PolicyDocument Roles"
    attributes = "Id"

    def create(self, ctx: Context, p: Properties) -> str:
        ctx.initiated(name := ctx.name(64))
        self.update(ctx, name, {}, p)
        return name

    def update(self, ctx: Context, physical: str, old: Properties, new: Properties) -> None:
        iam, document = ctx.aws("iam"), json.dumps(new["PolicyDocument"])
        for role in new.get("Roles", []):
            iam.put_role_policy(RoleName=role, PolicyName=new["PolicyName"], PolicyDocument=document)
        kept = new.get("Roles", []) if old.get("PolicyName") == new["PolicyName"] else []
        self.delete(
            ctx, physical, {**old, "Roles": [role for role in old.get("Roles", []) if role not in kept]}
        )

    def delete(self, ctx: Context, physical: str, p: Properties) -> None:
        for role in p.get("Roles", []):
            if_there(ctx.aws("iam").delete_role_policy, RoleName=role, PolicyName=p["PolicyName"])

    def describe(self, ctx: Context, physical: str, p: Properties) -> dict[str, Any]:
        return {"Id": physical}


class LogGroup(Handler):
    type, service, name = "AWS::Logs::LogGroup", "logs", "LogGroupName"
    acted = "LogGroupName"
    recorded = "RetentionInDays KmsKeyId LogGroupClass"
    fixed = "KmsKeyId LogGroupClass"
    attributes = "Arn"

    def create(self, ctx: Context, p: Properties) -> str:
        name = p.get("LogGroupName") or ctx.name(255)
        call(ctx.aws("logs"), "CreateLogGroup", p, logGroupName=name, tags=self.tags(ctx.tags, p))
        ctx.initiated(name)
        self._retain(ctx, name, {}, p)
        return name

    def update(self, ctx: Context, physical: str, old: Properties, new: Properties) -> None:
        self._retain(ctx, physical, old, new)
        arn = self.describe(ctx, physical, new)["Arn"].removesuffix(":*")
        self.retag(ctx, arn, old, new)

    def delete(self, ctx: Context, physical: str, p: Properties) -> None:
        ctx.aws("logs").delete_log_group(logGroupName=physical)

    def describe(self, ctx: Context, physical: str, p: Properties) -> dict[str, Any]:
        groups = ctx.aws("logs").describe_log_groups(logGroupNamePrefix=physical)["logGroups"]
        return {"Arn": next(group["arn"] for group in groups if group["logGroupName"] == physical)}

    def _retain(self, ctx: Context, name: str, old: Properties, new: Properties) -> None:
        if days := new.get("RetentionInDays"):
            ctx.aws("logs").put_retention_policy(logGroupName=name, retentionInDays=days)
        elif "RetentionInDays" in old:
            ctx.aws("logs").delete_retention_policy(logGroupName=name)


class ScalableTarget(Handler):
    type, service = "AWS::ApplicationAutoScaling::ScalableTarget", "application-autoscaling"
    acted = "ServiceNamespace ResourceId ScalableDimension MinCapacity MaxCapacity SuspendedState"
    recorded = "RoleARN"
    attributes = "Id"

    def create(self, ctx: Context, p: Properties) -> str:
        scaling = ctx.aws(self.service)
        which = {"ServiceNamespace": p["ServiceNamespace"], "ScalableDimension": p["ScalableDimension"]}
        physical = f"{p['ResourceId']}|{p['ScalableDimension']}|{p['ServiceNamespace']}"
        found = scaling.describe_scalable_targets(**which, ResourceIds=[p["ResourceId"]])["ScalableTargets"]
        self.refuse_existing(bool(found), physical)
        tags = self.tags(ctx.tags, p)
        call(scaling, "RegisterScalableTarget", p, **({"Tags": tags} if tags else {}))
        ctx.initiated(physical)
        return physical

    def update(self, ctx: Context, physical: str, old: Properties, new: Properties) -> None:
        scaling = ctx.aws(self.service)
        wanted = {key: value for key, value in new.items() if key != "Tags"}
        if "SuspendedState" in old and "SuspendedState" not in new:
            wanted["SuspendedState"] = dict.fromkeys(old["SuspendedState"], False)
        call(scaling, "RegisterScalableTarget", wanted)
        which = {"ServiceNamespace": new["ServiceNamespace"], "ScalableDimension": new["ScalableDimension"]}
        (target,) = scaling.describe_scalable_targets(**which, ResourceIds=[new["ResourceId"]])[
            "ScalableTargets"
        ]
        self.retag(ctx, target["ScalableTargetARN"], old, new)

    def delete(self, ctx: Context, physical: str, p: Properties) -> None:
        resource, dimension, namespace = physical.split("|")
        ctx.aws(self.service).deregister_scalable_target(
            ServiceNamespace=namespace, ResourceId=resource, ScalableDimension=dimension
        )

    def describe(self, ctx: Context, physical: str, p: Properties) -> dict[str, Any]:
        return {"Id": physical}


class ScalingPolicy(Handler):
    type, service = "AWS::ApplicationAutoScaling::ScalingPolicy", "application-autoscaling"
    acted = (
        "PolicyName PolicyType ScalingTargetId ServiceNamespace ResourceId ScalableDimension "
        "TargetTrackingScalingPolicyConfiguration"
    )
    attributes = "Arn"

    def create(self, ctx: Context, p: Properties) -> str:
        scaling, which = ctx.aws(self.service), self._which(p)
        found = scaling.describe_scaling_policies(**which, PolicyNames=[p["PolicyName"]])["ScalingPolicies"]
        self.refuse_existing(bool(found), p["PolicyName"])
        arn = call(scaling, "PutScalingPolicy", p, **which)["PolicyARN"]
        ctx.initiated(arn)
        return arn

    def update(self, ctx: Context, physical: str, old: Properties, new: Properties) -> None:
        call(ctx.aws(self.service), "PutScalingPolicy", new, **self._which(new))

    def delete(self, ctx: Context, physical: str, p: Properties) -> None:
        ctx.aws(self.service).delete_scaling_policy(PolicyName=p["PolicyName"], **self._which(p))

    def describe(self, ctx: Context, physical: str, p: Properties) -> dict[str, Any]:
        return {"Arn": physical}

    def _which(self, p: Properties) -> dict[str, str]:
        if "ScalingTargetId" in p:
            resource, dimension, namespace = p["ScalingTargetId"].split("|")
        else:
            resource, dimension, namespace = p["ResourceId"], p["ScalableDimension"], p["ServiceNamespace"]
        return {"ServiceNamespace": namespace, "ResourceId": resource, "ScalableDimension": dimension}


class Alarm(Handler):
    type, service, name = "AWS::CloudWatch::Alarm", "cloudwatch", "AlarmName"
    acted = (
        "AlarmName Namespace MetricName Dimensions Statistic ExtendedStatistic Period EvaluationPeriods "
        "DatapointsToAlarm Threshold ComparisonOperator TreatMissingData"
    )
    recorded = "AlarmDescription ActionsEnabled AlarmActions OKActions InsufficientDataActions Unit Metrics"
    attributes = "Arn"

    def create(self, ctx: Context, p: Properties) -> str:
        cloudwatch, name = ctx.aws("cloudwatch"), p.get("AlarmName") or ctx.name(255)
        if "AlarmName" in p:
            self.refuse_existing(bool(cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"]), name)
        tags = {"Tags": pairs(tags)} if (tags := self.tags(ctx.tags, p)) else {}
        call(cloudwatch, "PutMetricAlarm", p, AlarmName=name, **tags)
        ctx.initiated(name)
        return name

    def update(self, ctx: Context, physical: str, old: Properties, new: Properties) -> None:
        wanted = {key: value for key, value in new.items() if key != "Tags"}
        call(ctx.aws("cloudwatch"), "PutMetricAlarm", wanted, AlarmName=physical)
        self.retag(ctx, self.describe(ctx, physical, new)["Arn"], old, new)

    def delete(self, ctx: Context, physical: str, p: Properties) -> None:
        ctx.aws("cloudwatch").delete_alarms(AlarmNames=[physical])

    def describe(self, ctx: Context, physical: str, p: Properties) -> dict[str, Any]:
        (alarm,) = ctx.aws("cloudwatch").describe_alarms(AlarmNames=[physical])["MetricAlarms"]
        return {"Arn": alarm["AlarmArn"]}


class Repository(Handler):
    type, service, name = "AWS::ECR::Repository", "ecr", "RepositoryName"
    acted = "RepositoryName ImageTagMutability EmptyOnDelete"
    recorded = (
        "ImageTagMutabilityExclusionFilters ImageScanningConfiguration EncryptionConfiguration LifecyclePolicy "
        "RepositoryPolicyText"
    )
    attributes = "Arn RepositoryUri"

    def create(self, ctx: Context, p: Properties) -> str:
        ecr, name = ctx.aws("ecr"), p.get("RepositoryName") or ctx.name(255).lower()
        call(ecr, "CreateRepository", p, repositoryName=name, tags=pairs(self.tags(ctx.tags, p)))
        ctx.initiated(name)
        self._policies(ecr, name, {}, p)
        return name

    def update(self, ctx: Context, physical: str, old: Properties, new: Properties) -> None:
        ecr = ctx.aws("ecr")
        if changed(old, new, "ImageTagMutability", "ImageTagMutabilityExclusionFilters"):
            call(
                ecr,
                "PutImageTagMutability",
                {"ImageTagMutability": "MUTABLE", **new},
                repositoryName=physical,
            )
        if changed(old, new, "ImageScanningConfiguration"):
            scanning = {"ImageScanningConfiguration": {"ScanOnPush": False}, **new}
            call(ecr, "PutImageScanningConfiguration", scanning, repositoryName=physical)
        self._policies(ecr, physical, old, new)
        self.retag(ctx, self.describe(ctx, physical, new)["Arn"], old, new)

    def delete(self, ctx: Context, physical: str, p: Properties) -> None:
        ctx.aws("ecr").delete_repository(repositoryName=physical, force=p.get("EmptyOnDelete", False))

    def describe(self, ctx: Context, physical: str, p: Properties) -> dict[str, Any]:
        (found,) = ctx.aws("ecr").describe_repositories(repositoryNames=[physical])["repositories"]
        return {"Arn": found["repositoryArn"], "RepositoryUri": found["repositoryUri"]}

    def _policies(self, ecr: Any, name: str, old: Properties, new: Properties) -> None:
        if text := new.get("LifecyclePolicy", {}).get("LifecyclePolicyText"):
            ecr.put_lifecycle_policy(repositoryName=name, lifecyclePolicyText=text)
        elif old.get("LifecyclePolicy"):
            ecr.delete_lifecycle_policy(repositoryName=name)
        if document := new.get("RepositoryPolicyText"):
            text = document if isinstance(document, str) else json.dumps(document)
            ecr.set_repository_policy(repositoryName=name, policyText=text)
        elif old.get("RepositoryPolicyText"):
            ecr.delete_repository_policy(repositoryName=name)


class Parameter(Handler):
    type, service, name = "AWS::SSM::Parameter", "ssm", "Name"
    recorded = "Name Type Value Description AllowedPattern DataType Tier Policies"
    attributes = "Type Value"

    def create(self, ctx: Context, p: Properties) -> str:
        name = p.get("Name") or ctx.name(255)
        call(ctx.aws("ssm"), "PutParameter", p, Name=name, Tags=pairs(self.tags(ctx.tags, p)))
        ctx.initiated(name)
        return name

    def update(self, ctx: Context, physical: str, old: Properties, new: Properties) -> None:
        wanted = {key: value for key, value in new.items() if key != "Tags"}
        call(ctx.aws("ssm"), "PutParameter", wanted, Name=physical, Overwrite=True)
        self.retag(ctx, physical, old, new)

    def delete(self, ctx: Context, physical: str, p: Properties) -> None:
        ctx.aws("ssm").delete_parameter(Name=physical)

    def describe(self, ctx: Context, physical: str, p: Properties) -> dict[str, Any]:
        return {"Type": p["Type"], "Value": p["Value"]}


HANDLERS: dict[str, Handler] = {
    kind.type: kind()
    for kind in (
        *(Role, RolePolicy, LogGroup, ScalableTarget, ScalingPolicy, Alarm, Repository, Parameter),
        *(ecs.Cluster, ecs.TaskDefinition, ecs.Service),
        *(network.LoadBalancer, network.TargetGroup, network.Listener),
        *(network.SecurityGroup, network.SecurityGroupIngress, network.SecurityGroupEgress),
    )
}
