"""
Outputs of the package g2p-fa, from its own `G2P_Fa` in evaluation mode (it never leaves training mode by itself, so
its dropout is on and its answers vary).

    pip install g2p-fa==1.1.0
    python -m tests.conversion.make_references.g2p_fa
"""

import random
from typing import Any

import torch
from g2p_fa import G2P_Fa  # type: ignore[import-not-found]
from g2p_fa.utils import FA_LETTERS, IPA2tensor, word2tensor  # type: ignore[import-not-found]

from .writing import summary, write_references

NUM_INVENTED, NUM_RANDOM, NUM_WITH_STEPS, NUM_STEPS = 800, 120, 60, 3
COMMON_WORDS = """
آب آتش آدم آرام آزاد آسمان آفتاب آموزش آهن آینده ابر ادب استاد اسب افق امروز امید انار انسان ایران باد باران
بازار باغ بالا برادر برف برگ بزرگ بلند بهار بیدار پاییز پدر پرنده پنجره پیراهن تابستان تاریخ تازه تماشا تنها
توپ جان جنگل جهان چای چراغ چشم حرف حیاط خاک خانه خدا خواب خواهر خورشید خوب دانش دانشگاه دختر درخت دریا دست دشت
دل دوست دیوار راه رنگ روز روشن زبان زمستان زمین زندگی زیبا ساعت سبز سپید ستاره سخن سرد سفر سلام سنگ سیاه شادی
شب شعر شهر شیر صبح صدا صندلی طلا ظهر عشق علم غذا فردا فرهنگ فیلم قلب قلم قند کار کتاب کشور کوچک کودک کوه گرم
گل گوش لباس ماه مادر ماهی مدرسه مردم مرغ معلم مهربان موسیقی میز نامه نان نرم نزدیک نور هوا همسایه یاد یخ ژاله
کُل مُهر گِل ضرب ثروت ذهن حافظ مؤلف قرآن مسئله
""".split()
ODD_INPUTS = ["آ", "ب", "سلام دنیا", "کتاب‌ها", "abc", "كتاب", "يک", "۱۲", "ژژژژژژژژژژژژژژژژژژژژژژژژژژژژ"]


def invented_words() -> list[str]:
    """First halves of common words before second halves of others, then letters in any order."""
    draw = random.Random(0)
    invented: dict[str, None] = {}
    while len(invented) < NUM_INVENTED:
        one, two = draw.choice(COMMON_WORDS), draw.choice(COMMON_WORDS)
        invented[one[: (len(one) + 1) // 2] + two[len(two) // 2 :]] = None
    letters = ["".join(draw.choice(FA_LETTERS) for _ in range(draw.randint(2, 10))) for _ in range(NUM_RANDOM)]
    return [*invented, *letters]


def transcribe(g2p: Any, word: str) -> str | None:
    """What the package answers; None where it raises because no end token comes in time."""
    try:
        return g2p(word)
    except IndexError:
        return None


@torch.no_grad()
def first_steps(g2p: Any, word: str) -> list[object]:
    """Logits of the first steps; the package's own call uses their argmax alone."""
    start = IPA2tensor("b").unsqueeze(1)  # its length and its first token are read
    logits = g2p.model(word2tensor(word).unsqueeze(1), start, 0)[1:, 0]
    return [summary(step.tolist()) for step in logits[:NUM_STEPS]]


def main() -> None:
    g2p = G2P_Fa()
    g2p.model.eval().cpu()
    g2p.device = g2p.model.device = torch.device("cpu")
    words = [*COMMON_WORDS, *invented_words(), *ODD_INPUTS]
    outputs = {word: transcribe(g2p, word) for word in words}
    with_steps = list(outputs)[:: len(outputs) // NUM_WITH_STEPS]
    write_references(
        "g2p_fa",
        "g2p-fa",
        ["torch"],
        "pip install g2p-fa==1.1.0",
        outputs=outputs,
        steps={word: first_steps(g2p, word) for word in with_steps},
    )


if __name__ == "__main__":
    main()
