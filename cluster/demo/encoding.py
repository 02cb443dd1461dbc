"""A written conversation as ids, with a mark on those that the model is to learn: its own answers and their ends."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.demo.data.dialogue import Dialogue, Message
from cluster.tokenizer.template import message_ids, prefix_ids
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation for training.

    Attributes:
        ids: the whole of it, by the template, and the stop id behind the last answer.
        learnt: for each of ``ids``, whether the model wrote it.
    """

    ids: list[int]
    learnt: list[bool]


def encode(tokenizer: ChatGLM3Tokenizer, dialogue: Dialogue, limit: int) -> Example:
    """The conversation's ids, cut behind the last turn that ends within ``limit`` ids.

    An answer ends with the role id of what follows it, as the published model was trained: ``<|observation|>`` behind
    a tool call, ``<|user|>`` else.
    """
    ids = prefix_ids(tokenizer)
    if dialogue.system:
        ids += encode_message(tokenizer, dialogue.system)
    learnt = [False] * len(ids)
    next_role = ""
    for turn in dialogue.turns:
        question, answer = encode_message(tokenizer, turn.message), encode_message(tokenizer, turn.answer)
        if len(ids) + len(question) + len(answer) >= limit:
            break
        ids += question + answer
        ends_an_answer = bool(next_role)  # the role that opens this question
        learnt += [ends_an_answer] + [False] * len(question) + [True] * (len(answer) - 1)
        next_role = "observation" if turn.answer.metadata else "user"
    if next_role:
        ids.append(tokenizer.role_id(next_role))
        learnt.append(True)
    return Example(ids, learnt)


def encode_message(tokenizer: ChatGLM3Tokenizer, message: Message) -> list[int]:
    """The ids of one message, by the template."""
    return message_ids(tokenizer, message.role, message.content, message.metadata)
