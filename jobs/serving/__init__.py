"""Questions answered from an archive: `refrain ask`, `refrain chat` and `refrain serve` are three doors to one room.

wanted       which base model, adapter and index are to answer, and where they are found
knowledge    the index: searched, and read anew when a newer cycle has indexed, or its mail is erased
prompting    question, conversation and sources -> the mails that the model goes on from
engine       many answers at a time, in a thread of its own; each with its own adapter
text_stream  what of a text that grows may be shown already
event_stream the events of a server that is asked: a refrain serve, a vLLM
vllm         in place of a model that is loaded here, one that vLLM serves
assistant    joins them; changes the adapter under load
api          OpenAI's requests, answers and errors, as values
app          the HTTP server's routes; `visit` (one request), `gate` (keys, limits) and `metrics` beside it
server       start, stop, signals
"""
