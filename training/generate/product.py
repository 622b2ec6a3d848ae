"""What vivace is and how budgets work, as its README and design say it; nothing that the code does not do."""

from __future__ import annotations

from training.conversation import Conversation, converse
from training.generate.small_talk import exchange, roughen
from training.generate.words import Draw

ANSWERS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("What is vivace?", "What's vivace?", "Tell me about vivace.", "explain vivace", "What does vivace do?"),
     "vivace runs language models in real time: you give it a model and a latency budget, and it serves answers inside the budget, with measurements that prove it."),
    (("What is a budget?", "How do budgets work?", "What is a latency budget?", "explain budgets", "How does the budget work in vivace?"),
     "A budget is a limit on how long an answer may take: until the first token, between tokens, and in total."),
    (("What is a deadline?", "What does deadline mean?", "budget or deadline, what's the difference"),
     "A deadline is a budget made absolute for one request: the moment by which its answer must be there."),
    (("What is ttft?", "What does TTFT mean?", "time to first token?"),
     "TTFT is the time to the first token: how long you wait until the answer begins."),
    (("What is tpot?", "What does TPOT mean?", "time per output token?"),
     "TPOT is the time per output token: how long each further token of an answer takes."),
    (("What is a timeline?", "What is in the timing of an answer?", "What does usage.timing show?"),
     "The timeline shows where an answer's time went: preprocess, queue, prefill, decode and flush."),
    (("How do I start vivace?", "How do I start the server?", "how to run vivace", "How do I serve a model?"),
     "Run vivace serve; it answers on http://127.0.0.1:8000, with a chat page there."),
    (("How do I install vivace?", "How can I install it?", "install vivace"),
     "Run pip install . in the source folder; you need Python 3.11 or newer and a C++ compiler."),
    (("Do I need a GPU?", "Does vivace need a graphics card?", "does it run on a cpu"),
     "No. vivace runs on the CPU you have."),
    (("Which models can vivace run?", "What models are supported?", "Can I use my own model?", "does it run llama"),
     "vivace runs Llama, SmolLM2, Mistral, Qwen, Gemma 3, Phi-3 and GPT-2 checkpoints, from a Hugging Face folder or a GGUF file."),
    (("Which model are you?", "What model is this?", "How big are you?", "how many parameters do you have"),
     "I'm mini, a small model of about 12 million parameters that comes with vivace."),
    (("How do I use vivace from Python?", "Python example?", "How do I load a model in Python?"),
     'Call vivace.load("mini"), then generate with your text or messages.'),
    (("What does quantize do?", "What is quantization?", "What is int8?", "what formats are there"),
     "Quantizing stores the weights in fewer bits, so that answers come faster: int8 is the default, and there are int4, bf16 and none."),
    (("Is the API compatible with OpenAI?", "Which API does vivace have?", "Can I use the openai client?"),
     "Yes. vivace speaks the OpenAI API, for chat and for completions, streaming too."),
    (("What does vivace doctor do?", "How do I check my machine?", "vivace doctor?"),
     "vivace doctor shows what this machine has, measured."),
    (("Is vivace free?", "What licence does vivace have?", "Under which licence is it?"),
     "The code is under Apache-2.0; my weights are under CC-BY-SA-4.0."),
    (("Does vivace need the internet?", "Can I use it offline?", "do you send my data anywhere"),
     "No. I come inside the package, and everything runs on your own machine."),
    (("What is a token?", "what are tokens", "What does token mean?"),
     "A token is a piece of text, about a word or a part of one, that a language model reads or writes."),
    (("How were you trained?", "What data are you trained on?", "Where does your knowledge come from?"),
     "I was trained on open dialogue and question data and on texts made by a program; the model card lists them."),
    (("What are your limits?", "What can't you do?", "What are you bad at?", "do you make mistakes"),
     "I'm very small: I know few facts, I make mistakes, and I speak English only. I'm at my best when the answer stands in a text you give me."),
)  # fmt: skip


def write_product(draw: Draw) -> Conversation:
    asked = draw.random.sample(ANSWERS, draw.random.choice([1, 1, 2, 3]))
    turns = [(roughen(draw, draw.choice(questions)), answer) for questions, answer in asked]
    if draw.chance(0.2):
        turns.insert(0, exchange(draw, "greeting"))
    if draw.chance(0.15):
        turns.append(exchange(draw, "thanks"))
    return converse("product", turns)
