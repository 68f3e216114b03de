"""ExecuTorch: networks as .pte programs for phones and small boards, computed by XNNPACK."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    at = "kdsearch_plugins.executorch_exporter.exporter:ExecuTorchExporter"
    register.exporter("executorch", at, extra="executorch", about="ExecuTorch program, .pte by XNNPACK; fp32")
