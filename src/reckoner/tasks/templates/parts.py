"""Fractions, sharing with and without a remainder, and averages."""

from __future__ import annotations

from reckoner.tasks.templates.story import Draw, Story, listed, template

ONE_PART = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 6: "a sixth", 10: "a tenth"}


@template("fractions")
def part_given_away(d: Draw) -> Story:
    """A fraction is given away, then some are bought."""
    (a, b), item, k = d.people(2), d.item("collection"), d.pick(2, 3, 4, 5, 6)
    n, more = k * d.number(4, 15), d.number(3, 30)
    given = d.step(f"How many {item} does {a} give away?", f"{a} gives away [{n}/{k}] {item}.")
    rest = d.step(f"How many {item} are left?", f"[{n}-{given}] {item} are left.")
    word, sign = d.pick(("finds", "+"), ("buys", "+"), ("loses", "-"), ("sells", "-"))
    d.step(
        f"How many {item} does {a} have in the end?", f"In the end {a.he} has [{rest}{sign}{more}] {item}."
    )
    part = ONE_PART[k]
    return d.ask(
        f"{a} has {n} {item}. {a.He} gives {part} of them to {b} and then {word} {more}. How many {item} does {a} have in the end?",
        f"{a} gives {part} of {a.his} {n} {item} to {b}. After that {a.he} {word} {more} {item}. How many does {a.he} have now?",
        f"{b} gets {part} of the {n} {item} that {a} has. Then {a} {word} {more} {item}. How many {item} does {a} have now?",
    )


@template("fractions")
def two_colors(d: Draw) -> Story:
    """Two different fractions of a number; the others are asked."""
    item, (j, k) = d.item("flower"), d.pick((2, 3), (2, 4), (3, 4), (2, 5), (3, 6), (4, 5), (2, 6))
    n = j * k * d.number(2, 6)
    red = d.step(f"How many {item} are red?", f"[{n}/{j}] {item} are red.")
    blue = d.step(f"How many {item} are yellow?", f"[{n}/{k}] {item} are yellow.")
    if d.below(2):
        both = d.step(f"How many {item} are red or yellow?", f"[{red}+{blue}] {item} are red or yellow.")
        d.step(f"How many {item} are white?", f"[{n}-{both}] {item} are white.")
        ask = f"The others are white. How many {item} are white?"
    else:
        d.step("How many more are red?", f"[{red}-{blue}] more {item} are red.")
        ask = "How many more red ones than yellow ones are there?"
    return d.ask(
        f"There are {n} {item} in a park. {ONE_PART[j].capitalize()} of them are red and {ONE_PART[k]} of them are yellow. {ask}",
        f"Of {n} {item} in a store, {ONE_PART[k]} are yellow and {ONE_PART[j]} are red. {ask}",
        f"On a farm with {n} {item}, {ONE_PART[j]} are red, and {ONE_PART[k]} of all the {item} are yellow. {ask}",
    )


@template("fractions")
def part_of_the_rest(d: Draw) -> Story:
    """A fraction, then a fraction of what is left."""
    who, item, j, k = d.person(), d.item("baked"), d.pick(2, 3, 4, 5), d.pick(2, 3, 4)
    n = d.number(24, 120, 6)
    first = d.step(f"How many {item} are eaten on Monday?", f"On Monday [{n}/{j}] {item} are eaten.")
    rest = d.step("How many are left then?", f"Then [{n}-{first}] are left.")
    second = d.step(f"How many {item} are eaten on Tuesday?", f"On Tuesday [{rest}/{k}] {item} are eaten.")
    d.step("How many are left in the end?", f"In the end [{rest}-{second}] {item} are left.")
    return d.ask(
        f"{who} bakes {n} {item}. On Monday {ONE_PART[j]} of them are eaten, and on Tuesday {ONE_PART[k]} of the rest. How many {item} are left?",
        f"{who} has made {n} {item}. The family eats {ONE_PART[j]} of them on Monday and {ONE_PART[k]} of the others on Tuesday. How many remain?",
        f"On Tuesday {who} eats {ONE_PART[k]} of the {item} that are left from Monday. On Monday {ONE_PART[j]} of {n} were eaten. How many are left now?",
    )


@template("fractions")
def pizza_slices(d: Draw) -> Story:
    """Pizzas cut into slices; a fraction is eaten and the rest is shared or counted."""
    who, n, slices, k = d.person(), d.number(2, 9), d.pick(6, 8, 10, 12), d.pick(2, 3, 4)
    price = d.number(2, 5)
    total = d.step("How many slices are there?", f"There are [{slices}*{n}] slices.")
    eaten = d.step("How many slices are gone?", f"[{total}/{k}] slices are gone.")
    left = d.step("How many slices are left?", f"[{total}-{eaten}] slices are left.")
    ask = "How many slices are left?"
    if d.below(2):
        d.step("How much money do they bring?", f"They bring $[{left}*{price}].")
        ask = f"The others are sold for ${price} each. How much money is that?"
    return d.ask(
        f"{who} cuts {n} pizzas into {slices} slices each. Guests eat {ONE_PART[k]} of the slices. {ask}",
        f"{n} pizzas have {slices} slices each, and {who} gives {ONE_PART[k]} of all slices away. {ask}",
        f"Each pizza has {slices} slices. {who} buys {n} pizzas and {ONE_PART[k]} of the slices are eaten. {ask}",
    )


@template("fractions")
def whole_from_part(d: Draw) -> Story:
    """A part is known, the whole is asked, and then what is still missing."""
    who, what, k = d.person(), d.pick("pages", "miles", "meters"), d.pick(2, 3, 4, 5, 6, 10)
    verb, past, do = {
        "pages": ("read", "a book", "read"),
        "miles": ("walked", "a trail", "walk"),
        "meters": ("painted", "a fence", "paint"),
    }[what]
    done = d.number(6, 40)
    whole = d.step(f"How many {what} are there in all?", f"In all there are [{done}*{k}] {what}.")
    left = d.step(f"How many {what} are left?", f"[{whole}-{done}] {what} are left.")
    ask = f"How many {what} are still to do?"
    if d.below(2):
        days = d.number(2, 9)
        d.step(f"How many {what} a day is that?", f"That is [{left}/{days}] {what} a day.")
        ask = f"How many {what} a day must {who.he} {do} to finish in {days} days?"
    return d.ask(
        f"{who} has {verb} {done} {what}, which is {ONE_PART[k]} of {past}. {ask}",
        f"After {done} {what}, {who} has {verb} {ONE_PART[k]} of {past}. {ask}",
        f"{ONE_PART[k].capitalize()} of {past} is {done} {what} and {who} has {verb} just that much. {ask}",
    )


@template("fractions")
def several_parts(d: Draw) -> Story:
    """Two thirds, three quarters, ...: one part first, then several."""
    k, m = d.pick((3, 2), (4, 3), (5, 2), (5, 3), (5, 4), (6, 5))
    n, each = k * d.number(3, 12), d.number(2, 6)
    word = {3: "thirds", 4: "quarters", 5: "fifths", 6: "sixths"}[k]
    count = {2: "two", 3: "three", 4: "four", 5: "five"}[m]
    one = d.step("How many children is one part?", f"One part is [{n}/{k}] children.")
    girls = d.step("How many girls are there?", f"There are [{one}*{m}] girls.")
    boys = d.step("How many boys are there?", f"There are [{n}-{girls}] boys.")
    ask = "How many boys are there?"
    if d.below(2):
        d.step("How many balls do the boys have?", f"The boys have [{boys}*{each}] balls.")
        ask = f"Each boy has {each} balls. How many balls do the boys have?"
    return d.ask(
        f"A school has {n} children in its choir. {count.capitalize()} {word} of them are girls. {ask}",
        f"{count.capitalize()} {word} of {n} children in a camp are girls and the rest are boys. {ask}",
        f"Of the {n} children of a club, {count} {word} are girls and all others are boys. {ask}",
    )


@template("sharing")
def sweets_left_over(d: Draw) -> Story:
    """Bags of sweets are shared out equally; the remainder is asked."""
    who, bags, each, kids = d.person(), d.number(2, 6), d.number(5, 12), d.pick(3, 4, 5, 10)
    part, left = divmod(bags * each, kids)
    d.require(left > 0 and 1 < part < 10)
    total = d.step("How many sweets are there?", f"There are [{each}*{bags}] sweets.")
    out = d.step(
        "How many sweets are handed out?", f"Each child gets {part}, so [{kids}*{part}] are handed out."
    )
    d.step(
        "How many sweets are left over?",
        f"[{total}-{out}] {'sweet is' if left == 1 else 'sweets are'} left over.",
        least=1,
    )
    return d.ask(
        f"{who} has {bags} bags of {each} sweets and gives {kids} children as many as possible, in equal parts. How many sweets are left over?",
        f"{kids} children get the same number of sweets from {who}, who has {bags} bags with {each} in each. If each gets as many as possible, how many are left over?",
        f"There are {bags} bags with {each} sweets in each. {who} gives {kids} children equal numbers of sweets, as many as {who.he} can, and keeps the rest. How many sweets does {who.he} keep?",
    )


@template("sharing")
def share_after_eating(d: Draw) -> Story:
    """Some are eaten, some are added, the rest is shared equally."""
    (a, b), item, kids, part = d.people(2), d.item("fruit"), d.number(3, 9), d.number(3, 9)
    eaten, more = d.number(3, 9), d.number(4, 30)
    n = kids * part + eaten - more
    d.require(n > eaten + 3)
    rest = d.step(f"How many {item} does {a} have left?", f"{a} has [{n}-{eaten}] {item} left.")
    total = d.step(
        f"How many {item} are there with those of {b}?",
        f"With those of {b} there are [{rest}+{more}] {item}.",
    )
    d.step("How many does each child get?", f"Each child gets [{total}/{kids}] {item}.")
    return d.ask(
        f"{a} picks {n} {item} and eats {eaten}. {b} brings {more} more. They give all of them to {kids} children in equal parts. How many {item} does each child get?",
        f"{kids} children share {item} equally. {a} has picked {n} but eaten {eaten} of them, and {b} adds {more}. What does each child get?",
        f"{b} has {more} {item} and {a} has {n}. After {a} eats {eaten}, all the {item} are shared equally by {kids} children. How many are there for each?",
    )


@template("sharing")
def vans_needed(d: Draw) -> Story:
    """How many vans carry everybody: the last one is not full."""
    seats, full, place = d.pick(4, 5, 6, 10), d.number(2, 6), d.pick("zoo", "lake", "museum", "farm")
    more = d.number(2, seats - 1)
    adults = d.number(2, 9)
    children = seats * full + more - adults
    total = d.step("How many people go?", f"[{children}+{adults}] people go.")
    sit = d.step(f"How many people fit in {full} vans?", f"{full} full vans carry [{seats}*{full}] people.")
    d.step("How many people are left?", f"[{total}-{sit}] people are left.")
    d.step("How many vans are needed?", f"With one more van, [{full}+1] vans are needed.")
    return d.ask(
        f"{children} children and {adults} adults want to go to the {place}. A van has {seats} seats for them. How many vans are needed to take everybody?",
        f"A van carries {seats} people. What is the smallest number of vans that can bring {adults} adults and {children} children to the {place}?",
        f"For a trip to the {place}, a school rents vans with {seats} seats for passengers. {children} children and {adults} adults go. How many vans must it rent?",
    )


@template("sharing")
def unequal_parts(d: Draw) -> Story:
    """One gets several times as much as the other; the sum is known."""
    (a, b), what, k = d.people(2), d.item("collection"), d.number(2, 4)
    part = d.number(4, 20)
    n = part * (k + 1)
    times = "twice" if k == 2 else f"{k} times"
    parts = d.step("How many equal parts are there?", f"There are [{k}+1] equal parts.")
    one = d.step(f"How many {what} does {b} get?", f"{b} gets [{n}/{parts}] {what}.")
    big = d.step(f"How many {what} does {a} get?", f"{a} gets [{one}*{k}] {what}.")
    ask = f"How many {what} does {a} get?"
    if d.below(2):
        d.step("What is the difference?", f"{a} gets [{big}-{one}] more {what}.")
        ask = f"How many more does {a} get than {b}?"
    return d.ask(
        f"{a} and {b} share {n} {what}. {a} gets {times} as many as {b}. {ask}",
        f"There are {n} {what} for {a} and {b}, and {a} takes {times} as many as {b} does. {ask}",
        f"{n} {what} are given to {a} and {b}, so that {a} has {times} as many as {b}. {ask}",
    )


@template("sharing")
def gifts_then_split(d: Draw) -> Story:
    """Each friend gets some; two people split the rest."""
    (a, b), item, friends, each = d.people(2), d.item("baked"), d.number(3, 9), d.number(2, 8)
    rest = 2 * d.number(4, 25)
    n = friends * each + rest
    given = d.step("How many do the friends get?", f"The friends get [{each}*{friends}] {item}.")
    left = d.step(f"How many {item} are left?", f"[{n}-{given}] {item} are left.")
    d.step(f"How many does {b} get?", f"{b} gets [{left}/2] {item}.")
    return d.ask(
        f"{a} bakes {n} {item} and gives {each} to each of {friends} friends. The rest is split equally between {a} and {b}. How many {item} does {b} get?",
        f"{friends} friends get {each} {item} each from {a}, who had {n}. Then {a} and {b} take the same number of those left. How many does {b} take?",
        f"Out of {n} {item}, {each} go to each of {friends} friends. {a} and {b} share the others equally. How many are there for {b}?",
    )


@template("sharing")
def rope_pieces(d: Draw) -> Story:
    """A rope is cut into as many pieces as possible; the rest is asked."""
    who, piece, n = d.person(), d.pick(3, 4, 5, 10), d.number(2, 9)
    left, used = d.number(1, piece - 1), d.number(3, 20)
    length = piece * n + left + used
    rest = d.step(
        "How long is the rope that is left?", f"The rope that is left is [{length}-{used}] feet long."
    )
    cut = d.step("How much rope do the pieces take?", f"{n} pieces take [{piece}*{n}] feet.")
    d.step(
        "How much rope is over?", f"[{rest}-{cut}] {'foot is' if left == 1 else 'feet are'} over.", least=1
    )
    return d.ask(
        f"{who} has {length} feet of rope. {who.He} uses {used} feet for a swing and cuts the rest into as many pieces of {piece} feet as possible. How many feet are over?",
        f"From {length} feet of rope, {who} first takes {used} feet for a boat. The rest is cut into pieces {piece} feet long. How much is left at the end, in feet?",
        f"{who} needs rope pieces of {piece} feet. {who.He} has {length} feet, but {used} feet are old and thrown away. After cutting all the pieces {who.he} can, how many feet remain?",
    )


@template("averages")
def mean_of_days(d: Draw) -> Story:
    """The average of three numbers."""
    who = d.person()
    what, verb = d.pick(("pages", "reads"), ("miles", "runs"), ("laps", "swims"))
    days = ["Monday", "Tuesday", "Wednesday"]
    counts = [d.number(4, 20) for _ in days]
    total = d.step(
        f"How many {what} is that in all?", f"In all that is [{'+'.join(map(str, counts))}] {what}."
    )
    d.step("What is the average?", f"The average is [{total}/3] {what} a day.")
    told = [
        f"{counts[0]} {what} on Monday",
        *(f"{count} on {day}" for count, day in zip(counts[1:], days[1:], strict=True)),
    ]
    list_ = listed(told)
    extra = d.aside(
        f"{who} is {d.number(8, 15)} years old.", f"{who.He} sleeps {d.number(8, 10)} hours a night."
    )
    return d.ask(
        f"{who} {verb} {list_}.{extra} What is the average number of {what} a day?",
        f"{who} notes what {who.he} {verb}: {list_}.{extra} How many {what} is that a day on average?",
        f"Here is what {who} {verb}: {list_}.{extra} How many {what} a day is that on average?",
    )


@template("averages")
def missing_score(d: Draw) -> Story:
    """What must the last test bring for a given average?"""
    who, mean = d.person(), d.number(60, 90, 5)
    x, y = mean + d.number(1, 8) * d.pick(-1, 1), mean + d.number(1, 8) * d.pick(-1, 1)
    need = d.step("How many points are needed in all?", f"{who} needs [{mean}*3] points in all.")
    have = d.step(f"How many points does {who} have?", f"{who.He} has [{x}+{y}] points.")
    d.step("How many points must the last test bring?", f"The last test must bring [{need}-{have}] points.")
    return d.ask(
        f"{who} has {x} and {y} points in two tests. How many points does {who.he} need in the next one for an average of {mean} over all three?",
        f"There are three tests. {who} wants an average of {mean} points and has {x} and {y} so far. What must the last one bring?",
        f"To reach an average of {mean} points over three tests, how many points must {who} get in the last one after {x} and {y} in the others?",
    )


@template("averages")
def rest_of_book(d: Draw) -> Story:
    """Pages read so far, and the average needed for the days that are left."""
    who, a, day, rest = d.person(), d.number(2, 6), d.number(8, 30), d.number(2, 9)
    each = d.number(8, 30)
    pages = a * day + rest * each
    done = d.step(f"How many pages has {who} read?", f"{who} has read [{day}*{a}] pages.")
    left = d.step("How many pages are left?", f"[{pages}-{done}] pages are left.")
    d.step("How many pages a day is that?", f"That is [{left}/{rest}] pages a day.")
    return d.ask(
        f"A book has {pages} pages. {who} reads {day} pages a day for {a} days. How many pages a day must {who.he} read on average to finish in {rest} more days?",
        f"{who} reads {day} pages of a book on each of {a} days. The book has {pages} pages and is due in {rest} days. How many pages a day are needed?",
        f"In {rest} more days {who} wants to finish a book of {pages} pages. For {a} days {who.he} has read {day} pages daily. What average per day is needed now?",
    )


@template("averages")
def two_groups_mean(d: Draw) -> Story:
    """Totals of two groups from their averages; the overall average or difference."""
    a, b = d.number(2, 6), d.number(2, 6)
    p, q = d.number(5, 20), d.number(5, 20)
    what, x, y = d.pick(
        ("books", "girls", "boys"),
        ("points", "old players", "new players"),
        ("dollars", "teachers", "parents"),
    )
    d.require(p != q)
    one = d.step(f"How many {what} do the {x} have?", f"The {x} have [{p}*{a}] {what}.")
    two = d.step(f"How many {what} do the {y} have?", f"The {y} have [{q}*{b}] {what}.")
    total = d.step(f"How many {what} are there?", f"There are [{one}+{two}] {what}.")
    ask = f"How many {what} do all of them have together?"
    if (p * a + q * b) % (a + b) == 0:
        people = d.step("How many people are there?", f"There are [{a}+{b}] people.")
        d.step("What is the average of all?", f"The average is [{total}/{people}] {what}.")
        ask = "What is the average of all of them?"
    return d.ask(
        f"{a} {x} have {p} {what} each on average. For {b} {y} the average is {q} {what}. {ask}",
        f"The average of {b} {y} is {q} {what}, and that of {a} {x} is {p} {what}. {ask}",
        f"In a school, {a} {x} have an average of {p} {what} while {b} {y} have an average of {q}. {ask}",
    )


@template("averages")
def new_box(d: Draw) -> Story:
    """An average of some boxes, and one more box that changes it."""
    n, mean, item = d.number(3, 6), d.number(6, 20), d.item("fruit")
    shift = d.number(1, 5)
    last = mean + shift * (n + 1)
    total = d.step(f"How many {item} are in the {n} boxes?", f"The {n} boxes hold [{mean}*{n}] {item}.")
    all_ = d.step(
        "How many are there with the new box?", f"With the new box there are [{total}+{last}] {item}."
    )
    boxes = d.step("How many boxes are there now?", f"Now there are [{n}+1] boxes.")
    d.step("What is the new average?", f"The new average is [{all_}/{boxes}] {item}.")
    return d.ask(
        f"{n} boxes hold {mean} {item} on average. A new box with {last} {item} is put beside them. What is the average now?",
        f"A truck carries {n} boxes with an average of {mean} {item}. One more box, with {last} {item}, is added. How many {item} per box is that now?",
        f"One box with {last} {item} is added to {n} boxes whose average is {mean} {item}. What is the average of all the boxes?",
    )


@template("averages")
def above_the_mean(d: Draw) -> Story:
    """How far one value lies from the average of three."""
    (a, b, c), unit = d.people(3), d.pick("points", "shells", "stamps")
    x, y, z = d.number(10, 60), d.number(10, 60), d.number(10, 60)
    d.require(2 * x > y + z)
    two = d.step(f"How many {unit} do {a} and {b} have?", f"{a} and {b} have [{x}+{y}] {unit}.")
    total = d.step(f"How many {unit} do all three have?", f"All three have [{two}+{z}] {unit}.")
    mean = d.step("What is the average?", f"The average is [{total}/3] {unit}.")
    d.step(f"How many {unit} above it is {a}?", f"{a} is [{x}-{mean}] {unit} above the average.")
    return d.ask(
        f"{a} has {x} {unit}, {b} has {y} and {c} has {z}. How many {unit} more than the average of all three does {a} have?",
        f"{b} and {c} have {y} and {z} {unit}, and {a} has {x}. By how many {unit} is {a} above the average of the three?",
        f"Among {a} with {x} {unit}, {b} with {y} and {c} with {z}, how far is {a} above their average?",
    )
