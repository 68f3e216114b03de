"""Capabilities that read texts."""

from kdsearch.builtin.packages import PACKAGES
from kdsearch.hooks import Register

_AT = "kdsearch.builtin.text"


def register(register: Register) -> None:
    """Name them; called by kdsearch.builtin."""
    register.task("causal_lm", f"{_AT}.causal_lm:CausalLm", about="the next token of a text, at each of its tokens")
    about = "columns of CSV or JSON Lines, or plain text: for the next token, or with a target to write"
    register.dataset("sequences", f"{_AT}.sequences:Sequences", about=about)
    register.dataset(
        "prose",
        f"{_AT}.prose:Prose",
        about="paragraphs of Python's reference, as characters; always there",
        package=PACKAGES["prose"],
    )
    register.metric("perplexity", f"{_AT}.sequence_metrics:Perplexity", about="exp of the mean -log p of a token")
    register.metric(
        "next_token_accuracy", f"{_AT}.sequence_metrics:NextTokenAccuracy", about="share of next tokens found"
    )
    register.task("seq2seq", f"{_AT}.seq2seq:Seq2Seq", about="the target of a text, a token after another")
    about = "the teacher writes the targets that nobody has (seq2seq)"
    register.data_recipe("sequence_kd", f"{_AT}.sequence_kd:SequenceKd", about=about)
    about = "1,500 Korean words of drawn syllables and their names in Latin letters; always there"
    register.dataset("hangul", f"{_AT}.hangul:Hangul", about=about, package=PACKAGES["hangul"])
    register.metric("exact_match", f"{_AT}.sequence_metrics:ExactMatch", about="share of targets written exactly")
    register.dataset(
        "texts", f"{_AT}.texts:Texts", about="columns of CSV or JSON Lines: classes, or queries and documents"
    )
    about = "documentation of Python's standard library, 11 parts, or with its signatures; always there"
    register.dataset("docstrings", f"{_AT}.docstrings:Docstrings", about=about, package=PACKAGES["docstrings"])
    register.task(
        "embedding", f"{_AT}.embedding:Embedding", about="vectors of texts: a query is nearest to its document"
    )
    about = "in-batch preferences of queries among documents"
    register.distiller("relevance", f"{_AT}.relevance:Relevance", about=about)
    for name, cls, about in (
        ("ndcg", "Ndcg", "normalised discounted cumulative gain"),
        ("retrieval_recall", "RetrievalRecall", "share of a query's documents among the first"),
        ("mrr", "Mrr", "one over the place of the first right document"),
    ):
        register.metric(
            name, f"{_AT}.retrieval:{cls}", about=f"{about}; every query against every document of the split"
        )
