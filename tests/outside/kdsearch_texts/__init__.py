"""A package from outside: short texts by topic, a teacher that only writes, and recipes that ask it."""

from kdsearch.hooks import Register, hookimpl

AT = __name__


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.dataset("topics", f"{AT}.topics:Topics", about="short texts by topic, drawn")
    register.teacher("labeller", f"{AT}.scripted:Scripted", about="writes by rule, with errors")
    register.data_recipe("labelled", f"{AT}.recipes:Labelled", about="a label for each text without one")
    register.data_recipe("written", f"{AT}.recipes:Written", about="new texts for each topic")
    register.data_recipe("novel", f"{AT}.recipes:Novel", about="those texts that are unlike one another")
