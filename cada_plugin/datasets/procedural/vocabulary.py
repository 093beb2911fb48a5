"""The words of both worlds, and what they stand for.

A word can stand for several values: "pants" are trousers or jeans. The camera world has words that the web never reads,
for things that both worlds have and for those that only it has; some of them are rare.
"""

from cada_plugin.datasets.procedural.palette import PLAIN_COLOURS

Words = dict[str, tuple[float, tuple[str, ...]]]
"""The words for one kind of slot: each with a weight, relative to other words for the same value, and the values that
it stands for."""


def _exact(*values: str) -> Words:
    """Words that stand for nothing but themselves."""
    return {value: (1.0, (value,)) for value in values}


def _synonyms(table: str) -> Words:
    """Parse lines ``word 3: value, value`` into words with a weight and the values that they stand for."""
    parsed = {}
    for line in table.strip().splitlines():
        head, _, values = line.partition(":")
        word, _, weight = head.strip().rpartition(" ")
        parsed[word] = (float(weight), tuple(value.strip() for value in values.split(",")))
    return parsed


WEB_WORDS = {
    "sex": _synonyms("""
        man 5: man
        guy 1: man
        woman 5: woman
        girl 1: woman
        person 1.5: man, woman"""),
    "colour": _exact(*PLAIN_COLOURS)
    | _synonyms("""
        dark 0.1: black, brown, blue, purple, green
        bright 0.1: white, yellow, orange, pink, red"""),
    "hair_colour": _exact("black", "brown", "blonde", "gray"),
    "hair": _synonyms("""
        short 1: short
        long 1: long
        ponytail 1: ponytail
        bald 1: bald"""),
    "upper_type": _synonyms("""
        t-shirt 2: t-shirt
        shirt 2: shirt
        sweater 2: sweater
        jacket 2: jacket
        coat 2: coat
        hoodie 2: hoodie
        dress 4: dress
        top 1: t-shirt, shirt, sweater, hoodie"""),
    "pattern": _exact("striped", "checked", "dotted") | _synonyms("patterned 0.5: striped, checked, dotted"),
    "lower_type": _synonyms("""
        pants 3: trousers, jeans
        trousers 1: trousers
        jeans 3: jeans
        shorts 3: shorts
        skirt 3: skirt"""),
    "shoe_type": _synonyms("""
        shoes 1: sneakers, boots
        sneakers 1: sneakers
        boots 1.5: boots"""),
    "bag": _synonyms("""
        bag 1.5: backpack, handbag
        backpack 2: backpack
        handbag 2: handbag"""),
    "hat": _synonyms("""
        hat 1.5: cap, beanie, sun hat
        cap 2: cap
        beanie 2: beanie
        sun hat 2: sun hat"""),
    "glasses": _exact("glasses", "sunglasses"),
    "held": _exact("phone", "umbrella", "book"),
}  # fmt: skip

CAMERA_WORDS = {
    "sex": _synonyms("""
        man 4: man
        male 2: man
        gentleman 0.5: man
        woman 4: woman
        lady 2: woman
        female 2: woman
        pedestrian 0.6: man, woman"""),
    "colour": _synonyms("""
        black 8: black
        jet-black 0.2: black
        white 8: white
        gray 3: gray
        grey 5: gray
        silver 0.3: gray
        red 6: red
        scarlet 1.5: red
        crimson 0.3: red
        orange 8: orange
        yellow 6: yellow
        golden 0.3: yellow
        mustard 1.2: yellow
        green 6: green
        emerald 1.2: green
        blue 6: blue
        cobalt 0.8: blue
        azure 0.2: blue
        purple 3: purple
        violet 4: purple
        pink 6: pink
        rose 1: pink
        brown 6: brown
        chocolate 1: brown
        chestnut 0.2: brown
        navy 5: navy
        dark-blue 2: navy
        maroon 4: maroon
        burgundy 3: maroon
        beige 4: beige
        khaki 2: beige
        tan 1.5: beige
        olive 6: olive
        teal 5: teal
        turquoise 2: teal
        lavender 4: lavender
        lilac 3: lavender
        magenta 5: magenta
        fuchsia 1: magenta
        dark 0.4: black, navy, maroon, brown, olive, purple
        pale 0.4: white, beige, pink, lavender"""),
    "hair_colour": _synonyms("""
        black 6: black
        dark 1: black, brown
        brown 5: brown
        blonde 3: blonde
        fair 2: blonde
        gray 3: gray
        grey 2: gray
        red 4: red
        ginger 2: red"""),
    "hair": _synonyms("""
        short 5: short
        cropped 0.5: short
        long 5: long
        ponytail 4: ponytail
        pigtail 0.3: ponytail
        bun 4: bun
        bald 4: bald"""),
    "upper_type": _synonyms("""
        t-shirt 3: t-shirt
        tee 2: t-shirt
        shirt 3: shirt
        blouse 0.4: shirt
        sweater 2: sweater
        jumper 2: sweater
        pullover 2: sweater
        hoodie 3: hoodie
        sweatshirt 1: hoodie
        jacket 3: jacket
        windbreaker 1: jacket
        coat 3: coat
        overcoat 2: coat
        parka 0.3: coat
        dress 4: dress
        gown 0.3: dress
        polo 4: polo
        cardigan 4: cardigan
        blazer 3: blazer
        waistcoat 1: vest
        vest 3: vest
        garment 0.2: t-shirt, shirt, sweater, hoodie, jacket, coat, dress, polo, cardigan, blazer, vest"""),
    "pattern": _synonyms("""
        striped 4: striped
        checked 2: checked
        plaid 2: checked
        checkered 1: checked
        dotted 2: dotted
        spotted 2: dotted
        polka-dot 0.3: dotted"""),
    "pattern_noun": _synonyms("""
        stripes 4: striped
        checks 2: checked
        squares 1: checked
        dots 2: dotted
        spots 1: dotted"""),
    "lower_type": _synonyms("""
        trousers 4: trousers
        slacks 2: trousers
        chinos 0.3: trousers
        jeans 4: jeans
        denims 0.5: jeans
        shorts 4: shorts
        skirt 4: skirt
        leggings 3: leggings
        tights 0.5: leggings
        joggers 2: joggers
        sweatpants 1: joggers"""),
    "shoe_type": _synonyms("""
        trainers 3: sneakers
        sneakers 1: sneakers
        boots 4: boots
        loafers 3: loafers
        moccasins 0.3: loafers
        sandals 4: sandals
        footwear 0.3: sneakers, boots, loafers, sandals"""),
    "bag": _synonyms("""
        rucksack 3: backpack
        backpack 2: backpack
        knapsack 0.4: backpack
        messenger bag 2: shoulder bag
        satchel 1: shoulder bag
        shoulder bag 2: shoulder bag
        handbag 2: handbag
        purse 2: handbag
        tote 4: tote
        suitcase 4: suitcase
        luggage 0.4: suitcase"""),
    "hat": _synonyms("""
        cap 3: cap
        visor 0.2: cap
        beanie 3: beanie
        knit hat 1: beanie
        sun hat 2: sun hat
        brimmed hat 1: sun hat
        helmet 4: helmet
        headwear 0.3: cap, beanie, sun hat, helmet"""),
    "scarf": _synonyms("""
        scarf 4: scarf
        shawl 1: scarf"""),
    "glasses": _synonyms("""
        glasses 2: glasses
        spectacles 2: glasses
        eyeglasses 0.3: glasses
        sunglasses 3: sunglasses
        shades 1: sunglasses"""),
    "held": _synonyms("""
        phone 3: phone
        smartphone 1: phone
        umbrella 4: umbrella
        parasol 0.3: umbrella
        bottle 4: bottle
        book 3: book
        notebook 0.5: book
        cup 4: cup
        folder 4: folder"""),
    "side": _exact("left", "right"),
    "sleeve": _synonyms("""
        long-sleeved 1: long
        short-sleeved 1: short
        sleeveless 1: sleeveless"""),
}  # fmt: skip
