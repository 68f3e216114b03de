"""OpenVINO: networks as its intermediate representation, and NNCF's post-training quantisation of such files."""

from kdsearch.hooks import Register, hookimpl

_AT = "kdsearch_plugins.openvino_exporter"


@hookimpl
def kdsearch_register(register: Register) -> None:
    about = "OpenVINO IR, .xml and .bin; fp32, or INT8 by nncf_int8"
    register.exporter("openvino", f"{_AT}.exporter:OpenVinoExporter", extra="openvino", about=about)
    about = "of OpenVINO IR: static 8 bits by NNCF, per channel"
    register.quantizer("nncf_int8", f"{_AT}.quantizer:NncfInt8", extra="openvino", about=about)
