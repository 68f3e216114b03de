"""A plugin with one distiller: this runs at every start, so it names the class and does not import it."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.distiller("angle", "kdsearch_own.angle:Angle", about="the direction of the logits")
