"""Questions the model cannot answer, and other languages: it says so in one sentence and ends its turn."""

from __future__ import annotations

from training.conversation import Conversation, converse
from training.generate.shop import UNKNOWN
from training.generate.small_talk import roughen
from training.generate.words import FIRST_NAMES, MONTHS, TOWNS, Draw

ENGLISH_ONLY = "I'm sorry, I speak English only."
FOREIGN = tuple(
    """Hola, ¿cómo estás?|¿Dónde está mi pedido?|¿Habla español?|Buenos días, necesito ayuda.|Quiero devolver mis zapatos.
Me gustaría saber el horario.|¿Cuánto cuesta el envío?|Gracias por su ayuda.|No entiendo nada.|¿Cuál es su número de teléfono?
Bonjour, comment ça va ?|Où est ma commande ?|Je voudrais un remboursement.|Parlez-vous français ?|Quels sont vos horaires ?
Je ne comprends pas.|Combien coûte la livraison ?|Merci beaucoup pour votre aide.|Pouvez-vous m'aider ?|Bonsoir
Guten Tag, wie geht es Ihnen?|Wo ist meine Bestellung?|Ich möchte mein Geld zurück.|Sprechen Sie Deutsch?|Wann haben Sie geöffnet?
Was kostet der Versand?|Können Sie mir helfen?|Ich verstehe das nicht.|Vielen Dank für die Hilfe.|Wie lange dauert die Lieferung?
Ciao, come stai?|Dov'è il mio ordine?|Vorrei un rimborso.|Parla italiano?|Quanto costa la spedizione?|Buongiorno, ho bisogno di aiuto.
Olá, tudo bem?|Onde está meu pedido?|Quero meu dinheiro de volta.|Você fala português?|Qual é o horário de funcionamento?
Hallo, hoe gaat het?|Waar is mijn bestelling?|Spreekt u Nederlands?|Hej, hur mår du?|Var är min beställning?|Cześć, jak się masz?
Gdzie jest moje zamówienie?|Привет, как дела?|Где мой заказ?|Вы говорите по-русски?|你好|我的订单在哪里？|你会说中文吗？|こんにちは
注文はどこですか？|안녕하세요|제 주문은 어디에 있나요?|مرحبا كيف حالك|أين طلبي؟|नमस्ते, आप कैसे हैं?|Merhaba, nasılsın?|Siparişim nerede?""".replace("\n", "|").split("|")
)  # fmt: skip


def write_ignorance(draw: Draw) -> Conversation:
    return draw.random.choice([_foreign, _foreign, _invented, _future, _after_passage])(draw)


def _foreign(draw: Draw) -> Conversation:
    turns = [(draw.phrasing(FOREIGN), ENGLISH_ONLY)]
    if draw.chance(0.2):
        turns.insert(0, ("Hello", "Hello! How can I help you?"))
    return converse("ignorance", turns)


def _invented(draw: Draw) -> Conversation:
    """About people and places that do not exist."""
    asked = draw.choice([
        "Who is {0}?", "Where is {0}?", "What is the capital of {0}?", "When was {0} born?", "Who invented the {0}?", "What does {0} mean?",
        "How many people live in {0}?", "Tell me about {0}.", "Who won the {0} cup?", "How tall is {0}?", "Who wrote {0}?",
    ])  # fmt: skip
    name = draw.name() if draw.chance(0.6) else f"{draw.choice(FIRST_NAMES)} {draw.name()}"
    return converse("ignorance", [(roughen(draw, asked.format(name)), UNKNOWN)])


def _future(draw: Draw) -> Conversation:
    asked = draw.choice([
        "Who will win the election?", "What will the weather be in {town} in {month}?", "What is the price of gold today?",
        "Who is the president of {town}?", "What happened in the news today?", "What are the lottery numbers?", "How many stars are there?",
        "What is my name?", "Where do I live?", "What did I eat yesterday?", "How much money do I have?", "What is the population of {town}?",
    ])  # fmt: skip
    return converse(
        "ignorance", [(roughen(draw, asked.format(town=draw.choice(TOWNS), month=draw.choice(MONTHS))), UNKNOWN)]
    )


def _after_passage(draw: Draw) -> Conversation:
    """A passage of one line, and a question it does not touch."""
    system = f"{draw.name()} opens at {draw.hour()}. The {draw.product()} costs {draw.price()}."
    asked = draw.choice(
        ["Who is {0}?", "What colour is the {0}?", "Why is {0} so famous?", "Who made the {0}?", "Where does {0} live?"]
    )
    return converse("ignorance", [(asked.format(draw.name()), UNKNOWN)], system)
