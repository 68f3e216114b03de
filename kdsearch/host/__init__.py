"""Finds plugins, loads their capabilities when they are used, and keeps what is broken away from the rest."""

from kdsearch.host.host import Found, Host, Section
from kdsearch.host.plugins import Broken, Plugin

__all__ = ["Broken", "Found", "Host", "Plugin", "Section"]
