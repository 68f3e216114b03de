"""Trials on a Ray cluster: on several machines, or on this one."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.executor(
        "ray",
        "kdsearch_plugins.ray_executor.executor:RayExecutor",
        extra="ray",
        about="trials on the machines of a Ray cluster, tried again on another where one is lost",
    )
