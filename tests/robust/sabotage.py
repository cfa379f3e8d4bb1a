"""For each check of each notebook, what must make it fail: names to override before its cell is run again.

`SimpleNamespace` and `pandas` are there. A claim that is an expression is keyed by the first text in it. A check of two
halves has a sabotage of each.
"""

from __future__ import annotations

NOT_WELL = """
broken = SimpleNamespace(verify=lambda: SimpleNamespace(well=False), reveal=lambda: "a fault")
"""

SABOTAGES: dict[str, dict[str, str | tuple[str, ...]]] = {
    "00": {
        "The app answers its health check": """
urlopen = lambda *_, **__: SimpleNamespace(status=500)
""",
        "One process saturates: latency multiplies, and much of what was asked for is not served": (
            """
report = SimpleNamespace(during=lambda _: SimpleNamespace(p50=20.0, rate=30.0))
""",
            """
report = SimpleNamespace(during=lambda phase: SimpleNamespace(p50={"quiet": 9.0, "busy": 500.0}[phase], rate=99.0))
""",
        ),
        "A killed process stays dead: nothing here starts it again": """
outcome = "HTTP 200"
""",
    },
    "01": {
        "Everything that the course needs is on this machine": """
machine = SimpleNamespace(ready=False, missing=["Node.js"])
""",
        "Calls from this notebook reach the sandbox and no account of anybody": """
stranger = SimpleNamespace(get_caller_identity=lambda: {"Account": "999999999999"})
boto3 = SimpleNamespace(client=lambda name: stranger)
""",
        "In namespaces of its own, where they can be made, a process is number 1 and sees no other": """
views = SimpleNamespace(skipped="", inside={"process id": 7, "processes it sees": 30})
""",
        "A container, where there is an engine, has files and limits of its own beside that": """
views = SimpleNamespace(no_container="", table=[("cgroup", "this machine's")], contained={"user id": 0})
""",
    },
    "02": {
        "The good file has every answer that one wants, and hadolint saw one fault of the obvious one": """
sides = sides.assign(good=sides["obvious"])
""",
        "Where an engine builds them, the good image is at most a third of the other and quicker to build again": (
            """
rows = {"size, MB": {"obvious": 300.0, "good": 200.0}, "build after a changed line, s": {"obvious": 9.0, "good": 1.0}}
compare_builds = lambda *_, **__: type("Seen", (dict,), {"skipped": "", "images": {}})(rows)
""",
            """
rows = {"size, MB": {"obvious": 800.0, "good": 200.0}, "build after a changed line, s": {"obvious": 9.0, "good": 9.5}}
compare_builds = lambda *_, **__: type("Seen", (dict,), {"skipped": "", "images": {}})(rows)
""",
        ),
        ".dockerignore keeps files out": """
what_goes_in = lambda app_dir: pandas.DataFrame({"files": [0]}, index=["left out by .dockerignore"])
""",
        "Under npm the request is lost; under node it is answered": (
            """
stop_during_a_request = lambda app, **_: SimpleNamespace(answered=False, exit_code=143)
""",
            """
has_the_shell = lambda image: True
stop_during_a_request = lambda app, **_: SimpleNamespace(answered=True, exit_code=0)
""",
        ),
    },
    "03": {
        "It listens on the port that it is told, is healthy, and logs its requests": """
answers = answers | {"/healthcheck": 500}
""",
        "A request in flight is answered before the app leaves": """
stop_during_a_request = lambda app, **_: SimpleNamespace(answered=False, outcome="no answer", exit_code=143)
""",
        "Each way to fail has its own exit code, and a reason": """
try_app = lambda image, **_: SimpleNamespace(exit_code=0, out_of_memory=False, log="")
""",
        "A stop timeout that is shorter than the request cuts it off": """
stop_during_a_request = lambda app, **_: SimpleNamespace(answered=True, exit_code=0)
""",
    },
    "04": {
        "The repository is in this region, and its tags cannot be moved": """
repository = repository | {"imageTagMutability": "MUTABLE"}
""",
        "By this policy nothing would expire": """
ecr = SimpleNamespace(
    start_lifecycle_policy_preview=lambda **_: None,
    get_waiter=lambda name: SimpleNamespace(wait=lambda **_: None),
    get_lifecycle_policy_preview=lambda **_: {"status": "COMPLETE", "summary": {"expiringImageTotalCount": 3}},
)
""",
        "The repository has the policy": """
ecr = SimpleNamespace(
    put_lifecycle_policy=lambda **_: {"lifecyclePolicyText": policy},
    get_lifecycle_policy=lambda **_: {"lifecyclePolicyText": "another"},
)
""",
    },
    "05": {
        "The digest is the hash of the manifest, here and in the registry": """
another = '{"config": {"digest": "", "size": 0, "mediaType": ""}, "layers": []}'
ecr = SimpleNamespace(
    batch_get_image=lambda **_: {"images": [{"imageManifest": another}]}, describe_images=ecr.describe_images
)
""",
        "Another content has another digest, and cannot have this tag": """
refusal = "no refusal"
""",
        "The image that you deploy next would be gone": """
digest = "sha256:another"
""",
    },
    "06": {
        "The image is in the registry, and its tag will stay with it": """
newest = newest | {"imageTags": []}
""",
        "The task definition names this very image and fits Fargate": """
image_uri = "another"
""",
        "Execution role and task role are two roles": """
task_definition = task_definition | {"taskRoleArn": task_definition["executionRoleArn"]}
""",
    },
    "07": {
        "There are subnets in at least two availability zones": """
subnets = subnets[:1]
""",
        "Two different tasks answered, as far as the app says who it is": """
tasks = tasks[:1]
""",
        "Both targets are healthy, in two zones": """
app = SimpleNamespace(targets=pandas.DataFrame({"state": ["healthy", "unhealthy"]}), tasks=app.tasks)
""",
        "The service replaced the task by itself": """
before = ecs.list_tasks(cluster=cluster, serviceName=service_name)["taskArns"]
""",
    },
    "08": {
        "The service kept its tasks through the change": """
app = SimpleNamespace(counts=lambda: {"running": 1, "desired": 2})
""",
        "The service may have between two and ten tasks": """
too_few = {"ScalableTargets": [{"MinCapacity": 1, "MaxCapacity": 10}]}
autoscaling = SimpleNamespace(describe_scalable_targets=lambda **_: too_few)
""",
        "Three minutes above 50 % scale out, fifteen below 45 % scale in": """
alarms = [alarm | {"Threshold": 70.0} for alarm in alarms]
""",
        "AlarmLow is in ALARM, and nothing happens: the service is at its minimum": """
quiet = pandas.DataFrame({"alarm": ["AlarmHigh", "AlarmLow"], "state": ["OK", "OK"]})
app = SimpleNamespace(alarms=quiet, counts=app.counts)
""",
    },
    "09": {
        "Two tasks keep two counts, and neither is yours": (
            """
ask = lambda url, path: {"task": "one", "visits": 1}
""",
            """
ask = lambda url, path, numbers=iter(range(8)): {"task": str((n := next(numbers)) % 2), "visits": n}
""",
        ),
        "A task was stopped and replaced, and no visitor noticed": """
stopped = SimpleNamespace(failed=1, requests=100)
""",
        "A task was killed and replaced, at the cost of a few requests at most": (
            """
killed = SimpleNamespace(failed=20, requests=100)
""",
            """
ecs = SimpleNamespace(describe_tasks=lambda **_: {"tasks": [{"containers": [{"exitCode": 0}]}]})
""",
        ),
        "One stream tells of this request: that of the task which answered": (
            """
found = [*found, {"logStreamName": "ecs/app/another", "message": ""}]
""",
            """
found = [found[0] | {"logStreamName": "ecs/app/another"}]
""",
            """
found = []
""",
        ),
        "A new version went out and was taken back, and no request failed": """
old_version = "0.0.1"
""",
        "The old version answers everywhere, and only its image is kept": """
old_version = "0.0.1"
""",
    },
    "10": {
        "Two tasks were saturated, and none of their requests failed": """
two_tasks = 399.0
""",
        "No request failed, while tasks came and went": """
test = SimpleNamespace(served=1000, failed=1)
""",
        "The service scaled out, and p95 is at least five times lower with the new tasks": (
            """
activities = lambda *_: []
""",
            """
first_relief = lambda *_: None
test = SimpleNamespace(during=lambda _: busy, before=lambda *_, **__: SimpleNamespace(median_p95=4 * quick))
""",
        ),
        "When settled, there are enough tasks and not far too many: CPU is near its target of 50 %": (
            """
scaling = scaling.assign(value=90.0)
""",
            """
scaling = scaling[~((scaling["metric"] == "RequestsServed") & (scaling["time"] > after.start))]
""",
        ),
        "One process of the same size serves a fraction of it, slowly": (
            """
one = SimpleNamespace(median_p95=4 * quick, median_rate=1.0)
""",
            """
one = SimpleNamespace(median_p95=9 * quick, median_rate=after.median_rate)
""",
        ),
        "Nothing is left": """
left_over = lambda name: ["stack: left"]
""",
    },
    "as-published": {
        "Of all that is still wrong, the linter objects to one line": """
complete = placed
""",
        "The design is deployed, and the app answers through the load balancer": (
            """
page = lambda url: SimpleNamespace(status=503)
""",
            """
app = SimpleNamespace(targets=pandas.DataFrame({"state": ["healthy", "draining"]}))
""",
        ),
        "The mended design took the place of the other while the app went on": (
            """
deploy = lambda design: outputs
one = {"executionRoleArn": "role/one", "taskRoleArn": "role/one"}
boto3 = SimpleNamespace(client=lambda _: SimpleNamespace(describe_task_definition=lambda **_: {"taskDefinition": one}))
""",
            """
deploy = lambda design: outputs
app = SimpleNamespace(until_steady=lambda: app, counts=lambda: {"healthy": 1})
""",
        ),
        "What is left are names: the template asks for the repository, which this lab shares with the others": """
finished = apart
""",
        "The linter was silent about most of what keeps the design from running": """
tried = SimpleNamespace(table=tried.table.iloc[1:])
""",
        "The stack is gone": """
stay = [{"StackName": stack}]
cloudformation = SimpleNamespace(delete_stack=lambda **_: None, describe_stacks=lambda: {"Stacks": stay})
""",
    },
    "break-it-and-fix-it": {
        "The doctor comes to the same cause": """
diagnosis = SimpleNamespace(cause=SimpleNamespace(rule="keep-alive", cause="another"))
""",
        "The load balancer reaches the tasks, and the service is well again": NOT_WELL,
        "The service runs an image that is there, and is well again": NOT_WELL,
        "The role may pull and log, and the service is well again": NOT_WELL,
        "The health check asks for what the app has, and the service is well again": NOT_WELL,
        "Every round ended with a service that is well": """
verdicts = verdicts | {"app-exits": SimpleNamespace(well=False)}
""",
        "The surprise is mended, and the service is well again": NOT_WELL,
    },
}
