"""Words that customers and shops use for the same thing, in English and Chinese: a question is searched with all of them.

It knows the trade, not a shop: names of products are an operator's own groups. It knows no grammar: a word with two
meanings brings both.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from vivace.apps.support.words import WEAK_WORDS, content_words, has_chinese, split_words, stem

SHOP_GROUPS = (
    # orders and baskets
    "order, purchase, 订单", "buy, purchase, order, 购买, 下单, 买", "basket, cart, bag, 购物车", "checkout, check out, 结算, 结账",
    "cancel, call off, stop, 取消, 撤销", "change, edit, modify, update, swap, 修改, 更改, 改", "add, include, 增加, 加", "remove, take out, 删除, 去掉",
    "confirmation, confirm, 确认", "status, state, progress, 状态, 进度", "number, id, reference, 号码", "item, product, article, goods, piece, 商品, 东西",
    "sold out, out of stock, unavailable, 缺货, 售完", "back in stock, available again, restock, 补货, 到货", "notify, tell, alert, inform, 通知, 告诉",
    "preorder, pre-order, advance order, 预订, 预售", "minimum, smallest, least, 最低", "maximum, largest, most, at most, limit, 最多, 最高",
    "bulk, wholesale, quantity, large order, trade, 批发, 大量", "invoice, bill, 发票", "receipt, proof of purchase, 收据, 小票", "company, business, firm, office, 公司",
    # money
    "pay, payment, 付款, 支付, 付钱", "way, method, means, option, 方式, 方法", "accept, take, 接受, 支持", "card, credit card, debit card, 信用卡, 银行卡", "declined, rejected, refused, fail, 失败, 被拒", "charge, debit, bill, take, 扣款, 扣",
    "twice, double, two times, duplicate, 两次, 重复", "instalment, installment, split, pay later, 分期", "tax, vat, 税", "price, cost, amount, fee, how much, 价格, 费用, 多少钱",
    "cheap, discount, reduction, off, 折扣, 便宜", "coupon, code, voucher, promo, promotion, discount code, 优惠码, 优惠券, 折扣码", "sale, special offer, 特价, 打折",
    "gift card, gift certificate, store card, 礼品卡", "gift, present, 礼物, 送人", "free, no charge, gratis, 免费, 包邮", "surcharge, extra, more, additional, 另加, 附加费",
    "points, leaves, rewards, loyalty, 积分, 叶子", "expire, valid, run out, last, 过期, 有效, 失效", "cash, 现金", "bank transfer, wire, 转账", "currency, dollars, 货币",
    "safe, secure, 安全", "credit, balance, 余额",
    # shipping
    "parcel, package, box, shipment, packet, 包裹, 快递, 箱子", "ship, send, deliver, dispatch, 发货, 寄, 寄出, 配送, 送", "shipping, delivery, postage, 运费, 配送",
    "shipping cost, postage, 运费, 邮费", "arrive, get, come, receive, 到, 收到, 送到, 送达", "carrier, courier, driver, ups, 快递公司, 快递员", "track, follow, trace, 查询, 物流, 跟踪",
    "late, delayed, overdue, not arrived, not come, has not come, still waiting, 晚, 延误, 还没到", "lost, missing, gone, never arrived, 丢失, 没有收到, 没收到, 丢了", "delivered, signed for, 送达, 签收",
    "address, destination, 地址", "move, new house, relocate, 搬家", "express, fast, quick, urgent, rush, 加急, 快", "abroad, international, overseas, foreign, country, countries, 国外, 国际",
    "customs, duty, import tax, 关税, 海关", "pick up, collect, pickup, 自提, 取货", "at home, at work, missed, nobody, 不在家", "neighbour, neighbor, 邻居", "zip, postcode, postal code, 邮编",
    "weekend, saturday, sunday, 周末, 周六, 周日", "holiday, christmas, 节假日", "frost, freeze, frozen, cold, winter, 冻, 冬天", "china, shanghai, beijing, 中国, 上海, 北京",
    "europe, eu, germany, france, england, britain, uk, united kingdom, ireland, italy, spain, 欧洲, 英国, 德国, 法国", "usa, united states, america, 美国", "packaging, wrapping, wrap, packing, 包装",
    "days, long, 几天, 多久", "within, 以内, 之内", "working day, business day, 工作日",
    # returns
    "return, send back, bring back, give back, sending back, 退货, 退回, 退, 寄回", "refund, money back, reimburse, reimbursement, 退款, 退钱", "exchange, swap, replace, 换货, 换",
    "damaged, broken, crushed, smashed, cracked, 破损, 碎, 碎了, 破, 裂", "faulty, defective, stopped working, does not work, died, dead, broken, 质量问题, 坏, 坏了",
    "wrong, incorrect, mistake, different, 错, 发错, 不对", "missing, incomplete, not in the box, 少, 少发, 缺", "warranty, guarantee, 保修, 质保", "label, 面单, 标签", "repair, fix, mend, 修理, 修",
    "size, 尺寸, 大小", "colour, color, 颜色", "money, amount, 钱, 款项", "photo, picture, image, 照片, 图片",
    # account
    "account, profile, 账户, 账号", "sign in, log in, login, 登录", "sign up, register, create account, 注册", "password, passcode, 密码", "forgot, forgotten, reset, lost, 忘记, 忘, 重置",
    "locked, blocked, 锁定, 锁", "e-mail, email, mail, 邮箱, 邮件", "delete, erase, remove, 删除, 注销", "data, information, details, 数据, 信息", "privacy, personal data, 隐私, 个人数据",
    "newsletter, marketing, advertising, mailing list, 订阅", "unsubscribe, stop, opt out, 退订", "chat, conversation, transcript, 聊天",
    # people and places
    "contact, reach, call, phone, telephone, get in touch, write to us, phone number, telephone line, 联系, 电话", "person, human, agent, staff, someone, somebody, representative, 人工, 真人, 客服", "open, opening hours, hours, 营业时间, 上班", "manager, boss, supervisor, 经理, 负责人",
    "complain, complaint, unhappy, escalate, 投诉, 不满", "shop, store, showroom, in person, 门店, 店铺, 商店, 实体店", "review, rating, feedback, 评价", "class, course, workshop, lesson, 课程", "parking, park, car, 停车",
    "recycle, dispose, old lamp, 回收", "environment, plastic, sustainable, 环保, 塑料", "dog, cat, pet, animal, 宠物, 猫, 狗",
    # things of a household
    "lamp, light, 灯, 灯具", "bulb, socket, 灯泡", "watt, wattage, 瓦", "flicker, blink, flash, 闪, 闪烁, 一闪一闪", "dim, dimmer, 调光", "plug, outlet, voltage, adapter, 插头, 插座", "shade, lampshade, 灯罩",
    "assemble, assembly, put together, build, mount, 安装, 组装", "cable, cord, wire, 电线", "spare, replacement, part, 配件", "clean, wash, shiny, bright, polish, 清洁, 清洗",
    "smell, hum, noise, hot, 异味, 噪音, 发烫", "plant, fern, 植物", "water, watering, 浇水, 水", "pot, repot, repotting, 花盆, 换盆", "dark, low light, shade, 暗", "pest, fly, bug, insect, gnat, 虫",
    "poisonous, toxic, harmful, 有毒", "plate, dish, bowl, mug, cup, tableware, stoneware, ceramics, pottery, crockery, 盘子, 碗, 杯子, 餐具", "microwave, 微波炉", "dishwasher, 洗碗机", "glaze, lead, food safe, 釉", "candle, wick, burn, 蜡烛",
    "cloth, fabric, sample, 布料", "handmade, by hand, 手工",
)  # fmt: skip
"""Each a set of words or phrases of one meaning, after commas."""


WEAK = 0.5

_WEAK_STEMS = frozenset(map(stem, WEAK_WORDS))


@dataclass(frozen=True, slots=True)
class Term:
    """One thing that a question asks about: the word used, and others for the same, nearest languages first."""

    word: str
    others: tuple[str, ...] = ()
    phrases: tuple[tuple[str, ...], ...] = ()
    """Others of several words, each in its order: one says nothing unless it is there whole."""
    weight: float = 1.0
    """What it says beside the others, whatever its rarity: `WEAK` of a word that is in questions about anything."""

    @property
    def words(self) -> tuple[str, ...]:
        return (self.word, *self.others)

    def has_synonym_in(self, words: AbstractSet[str]) -> bool:
        """Whether a text of these words says the same otherwise."""
        return not words.isdisjoint(self.others) or any(
            all(word in words for word in phrase) for phrase in self.phrases
        )


@dataclass(frozen=True, slots=True)
class Thesaurus:
    """Groups of synonyms, split as text is. Build it once with `Thesaurus.of(groups)`."""

    groups: tuple[tuple[tuple[str, ...], ...], ...] = field(repr=False)
    _by_word: dict[str, tuple[tuple[int, int], ...]] = field(repr=False)

    @staticmethod
    def of(groups: Iterable[str]) -> Thesaurus:
        """From lines of words and phrases separated by commas."""
        split = [tuple(tuple(split_words(member)) for member in group.split(",") if member.strip()) for group in groups]
        by_word: dict[str, list[tuple[int, int]]] = {}
        for at, group in enumerate(split):
            for place, member in enumerate(group):
                by_word.setdefault(member[0], []).append((at, place))
        return Thesaurus(tuple(split), {word: tuple(places) for word, places in by_word.items()})

    def expand(self, question: str, across: bool = False) -> list[Term]:
        """What a question asks about, each with its synonyms in the question's script, or in both if `across`. Of a
        phrase in the question every word has those of the phrase."""
        words = list(dict.fromkeys(content_words(question) or split_words(question)))
        singles: dict[str, dict[str, None]] = {word: {} for word in words}
        phrases: dict[str, dict[tuple[str, ...], None]] = {word: {} for word in words}
        for number, member in self._find(split_words(question)):
            for holder in _holders(member, singles):
                for other in self.groups[number]:
                    if other == member or not (across or has_chinese(other[0]) == has_chinese(member[0])):
                        continue
                    if len(telling := _telling(other)) == 1:
                        singles[holder][telling[0]] = None
                    else:
                        phrases[holder][other] = None
        return [
            Term(
                word,
                tuple(other for other in singles[word] if other != word),
                tuple(phrases[word]),
                WEAK if word in _WEAK_STEMS else 1.0,
            )
            for word in words
        ]

    def concepts(self, text: str) -> list[str]:
        """A name for each group that a text has a member of, the same in both languages."""
        return [f"#{number}" for number in dict.fromkeys(number for number, _ in self._find(split_words(text)))]

    def _find(self, words: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
        """The members that stand in a text, with the numbers of their groups."""
        for at, word in enumerate(words):
            for number, place in self._by_word.get(word, ()):
                member = self.groups[number][place]
                if tuple(words[at : at + len(member)]) == member:
                    yield number, member


def _holders(member: Sequence[str], words: Container[str]) -> list[str]:
    """Which words of a question have the synonyms of a phrase in it: all that say something; of a Chinese word one, as
    its characters and pairs are the same thing several times."""
    parts = [part for part in member if part in words]
    return sorted(parts, key=len, reverse=True)[:1] if has_chinese(member[0]) else parts


def _telling(member: Sequence[str]) -> list[str]:
    """Of a phrase, the words that say something; of a Chinese word, its pairs of characters."""
    if has_chinese(member[0]):
        return [word for word in member if len(word) == 2] or list(member)
    return [word for word in member if content_words(word)] or list(member)


SHOP = Thesaurus.of(SHOP_GROUPS)
NONE = Thesaurus.of(())
