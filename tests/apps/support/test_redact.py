"""What is personal is taken out, whatever its writing; what only looks like it stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.apps.support.redact import IBAN_LENGTHS, has_luhn_digit, is_iban, redact

CARDS = [
    "4111111111111111",
    "5500005555555559",
    "378282246310005",
    "6011000990139424",
    "30569309025904",
    "2223000048400011",
]
IBANS = [
    "GB82WEST12345698765432",
    "DE89370400440532013000",
    "FR1420041010050500013M02606",
    "NO9386011117947",
    "MT84MALT011000012345MTLCAST001S",
]


def with_luhn_digit(digits: str) -> str:
    return next(digits + last for last in "0123456789" if has_luhn_digit(digits + last))


def grouped(text: str, separator: str) -> str:
    return separator.join(text[at : at + 4] for at in range(0, len(text), 4))


@pytest.mark.parametrize("separator", ["", " ", "-", ".", "\u00a0", "\u2013", "\u3000", "- "])
@pytest.mark.parametrize("card", CARDS)
def test_a_card_is_found_however_it_is_written(card: str, separator: str) -> None:
    assert redact(f"My card is {grouped(card, separator)}, thanks").text == "My card is [card], thanks"


def test_a_card_is_found_among_other_numbers() -> None:
    assert redact("order 20417 card 4111 1111 1111 1111 12/27").text == "order 20417 card [card] 12/27"
    assert "4111" not in redact("20417 4111 1111 1111 1111 123").text
    assert redact("卡号４１１１１１１１１１１１１１１１谢谢").text == "卡号[card]谢谢"


@given(st.text("0123456789", min_size=12, max_size=17), st.sampled_from("23456"))
def test_every_number_with_a_check_digit_is_a_card(digits: str, first: str) -> None:
    number = with_luhn_digit(first + digits)
    assert redact(f"x {number} y", region="ZZ").text == "x [card] y"


@given(st.sampled_from(CARDS), st.integers(0, 12), st.integers(1, 9))
def test_one_wrong_digit_makes_it_no_card(card: str, at: int, by: int) -> None:
    wrong = card[:at] + str((int(card[at]) + by) % 10) + card[at + 1 :]
    assert "card" not in redact(f"number {wrong}").kinds


@pytest.mark.parametrize("separator", ["", " ", "-"])
@pytest.mark.parametrize("iban", IBANS)
def test_an_iban_is_found_however_it_is_written(iban: str, separator: str) -> None:
    assert redact(f"to {grouped(iban, separator)}.").text == "to [iban]."
    assert redact(f"to {grouped(iban.lower(), separator)} please").text == "to [iban] please"


@given(st.sampled_from(IBANS), st.integers(4, 14), st.integers(1, 9))
def test_an_iban_with_a_wrong_digit_is_none(iban: str, at: int, by: int) -> None:
    if iban[at].isdigit():
        assert not is_iban(iban[:at] + str((int(iban[at]) + by) % 10) + iban[at + 1 :])


def test_lengths_of_ibans_are_within_the_standard() -> None:
    assert all(len(country) == 2 and 15 <= length <= 34 for country, length in IBAN_LENGTHS.items())


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("212-555-0187", "US"), ("(503) 555-0142", "US"), ("+44 20 7946 0958", "US"), ("020 7946 0958", "GB"),
        ("+86 138 1234 5678", "US"), ("030 901820", "DE"), ("+1.212.555.0187", "FR"),
    ],
)  # fmt: skip
def test_a_telephone_number_is_found(text: str, region: str) -> None:
    assert redact(f"Call me: {text} please", region).text == "Call me: [phone] please"


def test_a_chinese_telephone_number_is_found_in_a_chinese_message() -> None:
    assert redact("我的电话是13812345678，谢谢").text == "我的电话是[phone]，谢谢"


@pytest.mark.parametrize(
    "address",
    ["bob@example.com", "b.o-b+shop@mail.example.co.uk", "BOB_1@EXAMPLE.ORG", "zoë@example.de", "o'hara@example.ie"],
)
def test_an_email_address_is_found(address: str) -> None:
    assert redact(f"write to {address}, or not").text == "write to [email], or not"
    assert redact(f"邮箱是{address}谢谢").text == "邮箱是[email]谢谢"


@pytest.mark.parametrize(
    "address",
    [
        "192.168.1.14", "10.0.0.1:8080", "203.0.113.0/24", "fe80::1", "2001:db8::8a2e:370:7334", "01:23:45:67:89:ab", "01-23-45-67-89-AB",
        "localhost", "localhost:5432", "db-01.internal", "printer.local", "nas.home:445", "shop.example.com:8443", "host-81-2-69-142.isp.example.net",
    ],
)  # fmt: skip
def test_an_address_of_a_machine_is_found(address: str) -> None:
    assert redact(f"it runs on {address} here").text == "it runs on [address] here"


@pytest.mark.parametrize(
    "text",
    [
        "Order FL-20417 of 2026-11-17, 4 plates at 24.00", "It opens at 10:30:15 and closes at 18:00", "version 1.2.3, part 999.999.999.999",
        "We met at 3:00, see https://www.example.com/lamps?id=20417", "Book ISBN 978-3-16-148410-0 is fine", "std::vector::size",
        "at home, local shops, @fernandlantern", "订单FL-20417什么时候到", "The code is GB00 0000",
    ],
)  # fmt: skip
def test_what_is_not_personal_stays(text: str) -> None:
    assert redact(text).text == text
    assert redact(text).kinds == ()


def test_kinds_say_what_was_found() -> None:
    assert redact("a@b.example 4111111111111111 10.0.0.1").kinds == ("email", "card", "address")


PIECES = st.sampled_from(
    [*CARDS, *IBANS, "a@b.example", "10.0.0.1", "212-555-0187", "fe80::1", " ", "-", ".", ":", "4", "１", "x", "退"]
)


@given(st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=12).map("".join))
def test_a_second_time_changes_nothing(text: str) -> None:
    once = redact(text)
    assert redact(once.text).text == once.text


@given(st.text(max_size=30), st.sampled_from(CARDS), st.text(max_size=30))
def test_no_card_is_left_between_words(before: str, card: str, after: str) -> None:
    assert card not in redact(f"{before} a {card} b {after}").text


@pytest.mark.parametrize(
    "text", ["1" * 100_000, "a." * 50_000, "GB82" * 20_000, "1:" * 50_000, "a@" * 50_000, "0-" * 50_000]
)
def test_a_long_message_is_read_in_time_in_proportion(text: str) -> None:
    redact(text)
