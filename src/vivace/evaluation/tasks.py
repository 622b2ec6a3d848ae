"""Data as tokens: what a model is to score, to choose from, and to answer. Knows no way of computing any of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from vivace.errors import DataError, RequestError
from vivace.evaluation.data import Conversation, Data, Intent, Question
from vivace.tokenizer import Tokenizer

Prompt = str | Sequence[Mapping[str, str]]

LONGEST_REPLY = 128
LONGEST_ANSWER = 40


@dataclass(frozen=True, slots=True)
class Passage:
    """Tokens to score, all but the first, and which of them the assistant says."""

    document: int
    tokens: tuple[int, ...]
    said: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One prompt, and the index of the right label in the list of all."""

    prompt: tuple[int, ...]
    right: int


@dataclass(frozen=True, slots=True)
class Choices:
    labels: tuple[str, ...]
    replies: tuple[tuple[int, ...], ...]
    """The tokens of each label."""
    asked: tuple[Choice, ...]


def cut_text(text: str, tokenizer: Tokenizer, length: int, count: int = 0) -> list[Passage]:
    """Windows of `length` tokens side by side, evenly chosen if there are more than `count`.

    A window is a document: its tokens are predicted from it alone, and BOS stands before each where the model has one.
    Raises `DataError` for a text of fewer than two tokens.
    """
    marks = tokenizer.encode("")
    tokens = tokenizer.encode(text, special=False)
    step = length - len(marks)
    if step < 2:
        raise DataError(f"Windows of {length} tokens are too short; give 16 or more.")
    windows = [(*marks, *tokens[at : at + step]) for at in range(0, len(tokens), step)]
    windows = [window for window in windows if len(window) > len(marks) + 1 or (marks and len(window) > 1)]
    if not windows:
        raise DataError("The text has fewer than two tokens, so there is nothing to predict. Give more.")
    if 0 < count < len(windows):
        windows = [windows[index * len(windows) // count] for index in range(count)]
    return [Passage(index, window, (False,) * len(window)) for index, window in enumerate(windows)]


def mark_conversations(
    conversations: Sequence[Conversation], tokenizer: Tokenizer, stops: Collection[int], length: int
) -> list[Passage]:
    """Conversations as the model's template writes them, cut to `length` tokens.

    The assistant's tokens are those that follow the prompt for its turn, the token that ends it included. Where a
    template writes an earlier turn otherwise than the last one, each of the assistant's turns becomes a passage with
    what the model would see before it.
    """
    passages = []
    for index, conversation in enumerate(conversations):
        for tokens, said in _mark(conversation, tokenizer, stops):
            if len(tokens) > 1:
                passages.append(Passage(index, tuple(tokens[:length]), tuple(said[:length])))
    if not any(any(passage.said[1:]) for passage in passages):
        raise DataError(
            f"No assistant's turn begins within {length} tokens; give a greater --length or shorter conversations."
        )
    return passages


def _mark(
    conversation: Conversation, tokenizer: Tokenizer, stops: Collection[int]
) -> list[tuple[list[int], list[bool]]]:
    turns = []
    for index, message in enumerate(conversation.messages):
        if index and message["role"] == "assistant":
            before = tokenizer.encode_chat(conversation.messages[:index])
            after = tokenizer.encode_chat(conversation.messages[: index + 1], add_generation_prompt=False)
            turns.append((_count_common(before, after), after))
    whole = tokenizer.encode_chat(conversation.messages, add_generation_prompt=False)
    spans = [(begin, _find_end(after, begin, stops), after) for begin, after in turns]
    if all(whole[:end] == after[:end] for _, end, after in spans):
        return [(whole, [any(begin <= at < end for begin, end, _ in spans) for at in range(len(whole))])]
    return [(after[:end], [at >= begin for at in range(end)]) for begin, end, after in spans]


def _count_common(left: Sequence[int], right: Sequence[int]) -> int:
    same = 0
    while same < min(len(left), len(right)) and left[same] == right[same]:
        same += 1
    return same


def _find_end(tokens: Sequence[int], begin: int, stops: Collection[int]) -> int:
    """After the turn's last stop token; what a template puts behind it is nobody's."""
    ends = [at + 1 for at in range(begin, len(tokens)) if tokens[at] in stops]
    return ends[-1] if ends else len(tokens)


def write_question(question: Question, tokenizer: Tokenizer) -> Prompt:
    """The context as system message, or a plain text where there is no chat template."""
    if not tokenizer.has_chat_template:
        return f"{question.context}\n\nQuestion: {question.question}\nAnswer:"
    return [{"role": "system", "content": question.context}, {"role": "user", "content": question.question}]


def write_answers(questions: Sequence[Question], prompts: Sequence[Prompt], tokenizer: Tokenizer) -> list[Passage]:
    """Each prompt with the question's first answer behind it."""
    passages = []
    for index, (question, prompt) in enumerate(zip(questions, prompts, strict=True)):
        before = encode_prompt(prompt, tokenizer)
        space = " " if isinstance(prompt, str) else ""
        answer = tokenizer.encode(space + question.answers[0], special=False)
        said = (False,) * len(before) + (True,) * len(answer)
        passages.append(Passage(index, (*before, *answer), said))
    return passages


def write_opening(conversation: Conversation, tokenizer: Tokenizer) -> Prompt:
    """All before the assistant's first turn that answers something."""
    first = next(i for i, message in enumerate(conversation.messages) if i and message["role"] == "assistant")
    if not tokenizer.has_chat_template:
        return "".join(f"{message['content']}\n" for message in conversation.messages[:first])
    return conversation.messages[:first]


def encode_prompt(prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode(prompt) if isinstance(prompt, str) else tokenizer.encode_chat(prompt)


def write_choices(asked: Sequence[Intent], labels: Sequence[str], tokenizer: Tokenizer) -> Choices:
    """Every label, its underscores and slashes as spaces, as the answer to a text."""
    chats = tokenizer.has_chat_template
    words = [label.replace("_", " ").replace("/", " ") for label in labels]
    replies = tuple(tuple(tokenizer.encode(word if chats else f" {word}", special=False)) for word in words)
    if empty := [label for label, reply in zip(labels, replies, strict=True) if not reply]:
        raise DataError(f"The label {empty[0]!r} has no tokens for this model; give labels of words.")
    places = {label: index for index, label in enumerate(labels)}
    prompts = [f"Message: {intent.text}\nWhich intent has it?" for intent in asked]
    encoded = [
        encode_prompt([{"role": "user", "content": p}] if chats else f"{p}\nIntent:", tokenizer) for p in prompts
    ]
    return Choices(
        tuple(labels),
        replies,
        tuple(Choice(tuple(e), places[intent.label]) for e, intent in zip(encoded, asked, strict=True)),
    )


def list_labels(data: Data) -> list[str]:
    """Of the whole file, so that what is sampled of it is not easier. Raises `DataError` if there is but one."""
    labels = sorted({record.label for record in data.records if isinstance(record, Intent)})
    if len(labels) < 2:
        raise DataError(
            f"{data.name} has a single label, {labels[0]!r}; there is nothing to choose. Give more records."
        )
    return labels


def check_chat(tokenizer: Tokenizer) -> None:
    """Raises `RequestError` where conversations cannot be written."""
    if not tokenizer.has_chat_template:
        raise RequestError("This model has no chat template; measure it on plain text, questions or intents.")
