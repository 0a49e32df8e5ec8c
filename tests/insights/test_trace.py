import pytest

from llm_attr.errors import InvalidValue
from llm_attr.insights.trace import prompt_of_trace

USER, ANSWER = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Aksel."}
ASKED = {"messages": [USER], "target": "Aksel."}
FLAT = {
    "llm.input_messages.0.message.role": "user",
    "llm.input_messages.0.message.content": "Who?",
    "llm.output_messages.0.message.role": "assistant",
    "llm.output_messages.0.message.content": "Aksel.",
}
OTLP = [{"key": key, "value": {"stringValue": value}} for key, value in FLAT.items()]


@pytest.mark.parametrize(
    "trace",
    [
        [USER, ANSWER],
        {"messages": [USER, ANSWER]},
        {"messages": [USER], "choices": [{"message": ANSWER}]},
        {"messages": [USER], "response": {"choices": [{"message": ANSWER}]}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Who?"}]}, ANSWER]},
        {"name": "chat", "attributes": FLAT},
        [{"attributes": {"other": 1}}, {"attributes": OTLP}],
        FLAT,
    ],
)
def test_traces_give_their_prompt_and_answer(trace):
    assert prompt_of_trace(trace) == ASKED


def test_without_an_answer_there_is_no_target():
    assert prompt_of_trace([USER]) == {"messages": [USER]}


@pytest.mark.parametrize("trace", [None, 3, [], {}, "text", [{"content": "x"}], {"messages": "x"}, {"messages": [{}]}])
def test_anything_else_is_refused(trace):
    with pytest.raises(InvalidValue):
        prompt_of_trace(trace)


def test_the_server_reads_them(serve):
    _, client = serve()
    assert client.post("/api/trace", {"trace": [USER, ANSWER]})[2] == ASKED
    status, _, found = client.post("/api/trace", {"trace": 3})
    assert status == 422
    assert found["error"]["kind"] == "InvalidValue"
