"""Several steps in a row, comparisons, and equal groups."""

from __future__ import annotations

from reckoner.tasks.templates.story import Draw, Story, listed, template


@template("multi-step")
def shelf_events(d: Draw) -> Story:
    """A stock grows and shrinks on two or three days."""
    item, start = d.item("school"), d.number(20, 80)
    count, told = start, []
    for day in ("Tuesday", "Wednesday", "Thursday")[: d.number(2, 3)]:
        n = d.number(4, 20)
        sign, verb = d.pick(("+", "delivered"), ("-", "sold"), ("-", "returned to the factory"))
        count = d.step(
            f"How many {item} are there after {day}?", f"After {day} there are [{count}{sign}{n}] {item}."
        )
        told.append(f"on {day} {n} are {verb}")
    days = listed(told).removeprefix("on ")
    return d.ask(
        f"A shop has {start} {item}. On {days}. How many {item} does the shop have in the end?",
        f"There are {start} {item} on a shelf. On {days}. How many {item} are on the shelf then?",
        f"On Monday a store counts {start} {item}. On {days}. How many {item} does the store have after that?",
    )


@template("multi-step")
def bus_ride(d: Draw) -> Story:
    """People get on and off at two or three stops."""
    start = d.number(12, 40)
    count, told = start, []
    stops = ["first", "second", "third"][: d.number(2, 3)]
    for stop in stops:
        off, on = d.number(2, 9), d.number(2, 9)
        left = d.step(
            f"How many people stay on the bus at the {stop} stop?",
            f"At the {stop} stop [{count}-{off}] people stay on.",
        )
        count = d.step(
            f"How many people ride on from the {stop} stop?", f"Then [{left}+{on}] people ride on."
        )
        told.append(f"At the {stop} stop {off} people get off and {on} get on.")
    stories = " ".join(told)
    extra = d.aside(f"The ride takes {d.number(20, 50)} minutes.", f"A ticket costs ${d.number(2, 9)}.")
    return d.ask(
        f"A bus leaves with {start} people.{extra} {stories} How many people are on the bus then?",
        f"{start} people are in a bus when it starts. {stories}{extra} How many people are in the bus after the {stops[-1]} stop?",
        f"{stories} The bus carried {start} people before the first stop.{extra} How many people are in it now?",
    )


@template("multi-step")
def saving_goal(d: Draw) -> Story:
    """Weekly savings and what is still missing."""
    who, thing = d.person(), d.pick("a bike", "a guitar", "a phone", "a tent", "a camera")
    week, weeks, own, price = d.number(5, 20), d.number(3, 9), d.number(10, 60), d.number(150, 300, 10)
    extra = d.aside(
        f"A ticket to the museum costs ${d.number(4, 19)}.", f"{who} is {d.number(10, 18)} years old."
    )
    saved = d.step(
        f"How much does {who} save in {weeks} weeks?", f"In {weeks} weeks {who.he} saves $[{week}*{weeks}]."
    )
    total = d.step(f"How much does {who} have then?", f"{who.He} then has $[{saved}+{own}].")
    d.step(f"How much does {who} still need?", f"{who.He} still needs $[{price}-{total}].")
    return d.ask(
        f"{who} wants to buy {thing} for ${price}. {who.He} has ${own} and saves ${week} a week for {weeks} weeks.{extra} How much more money does {who.he} need?",
        f"{who} saves ${week} every week.{extra} {who.He} already had ${own}, and {thing} costs ${price}. How many dollars are missing after {weeks} weeks?",
        f"The price of {thing} is ${price}. {who} starts with ${own} and puts aside ${week} in each of {weeks} weeks.{extra} How much is {who.he} still short?",
    )


@template("multi-step")
def packs_used(d: Draw) -> Story:
    """Two kinds of packs are bought and some of the content is used."""
    who, item = d.person(), d.item("school")
    a, b, c, e, used = d.number(3, 9), d.number(6, 20), d.number(2, 9), d.number(4, 12), d.number(5, 40)
    big = d.step(f"How many {item} are in the big packs?", f"The big packs hold [{b}*{a}] {item}.")
    small = d.step(f"How many {item} are in the small packs?", f"The small packs hold [{e}*{c}] {item}.")
    total = d.step(f"How many {item} does {who} buy?", f"{who} buys [{big}+{small}] {item}.")
    d.step(f"How many {item} are left?", f"[{total}-{used}] {item} are left.")
    d.require(b > e)
    return d.ask(
        f"{who} buys {a} big packs with {b} {item} each and {c} small packs with {e} {item} each. {who.He} uses {used}. How many {item} are left?",
        f"A big pack has {b} {item} and a small pack has {e}. {who} gets {a} big and {c} small packs and gives away {used} {item}. How many {item} does {who.he} keep?",
        f"{who} lost {used} {item}. Before that {who.he} bought {a} big packs of {b} and {c} small packs of {e}. How many {item} does {who.he} have now?",
    )


@template("multi-step")
def egg_cartons(d: Draw) -> Story:
    """Eggs of some days are sold in boxes."""
    bird, hens, eggs, days, box = (
        d.item("bird"),
        d.number(4, 15),
        d.number(2, 4),
        d.number(2, 7),
        d.pick(6, 10, 12),
    )
    used = d.number(4, 20)
    day = d.step("How many eggs are laid a day?", f"The {bird} lay [{hens}*{eggs}] eggs a day.")
    total = d.step(f"How many eggs are laid in {days} days?", f"In {days} days they lay [{day}*{days}] eggs.")
    rest = d.step("How many eggs are left to pack?", f"After that [{total}-{used}] eggs are left.")
    d.step("How many boxes are filled?", f"They fill [{rest}/{box}] boxes.")
    return d.ask(
        f"A farmer has {hens} {bird} that each lay {eggs} eggs a day. In {days} days the family eats {used} eggs. The rest go into boxes of {box}. How many boxes are filled?",
        f"Each of {hens} {bird} lays {eggs} eggs a day. After {days} days, {used} eggs have been eaten. How many boxes of {box} can be filled with the others?",
        f"Boxes for eggs hold {box}. {hens} {bird} lay {eggs} eggs each per day for {days} days, and {used} of the eggs break. How many boxes do the good eggs fill?",
    )


@template("multi-step")
def bake_sale(d: Draw) -> Story:
    """Trays are baked, some pieces burn, the others are sold at a profit."""
    who, item = d.person(), d.item("baked")
    trays, each, burnt, price = d.number(3, 9), d.number(6, 12), d.number(2, 12), d.number(2, 5)
    cost = d.number(10, 60)
    baked = d.step(f"How many {item} does {who} bake?", f"{who} bakes [{each}*{trays}] {item}.")
    good = d.step(f"How many {item} can {who} sell?", f"{who.He} can sell [{baked}-{burnt}] {item}.")
    money = d.step(f"How much money does {who} take in?", f"{who.He} takes in $[{good}*{price}].")
    spent, ask = "", f"How many dollars does {who.he} take in?"
    if d.below(2):
        d.step(f"How much profit does {who} make?", f"{who.His} profit is $[{money}-{cost}].")
        spent, ask = (
            f" {who.He} has paid ${cost} for butter and flour.",
            f"What is {who.his} profit in dollars?",
        )
    return d.ask(
        f"{who} bakes {trays} trays of {each} {item}, but {burnt} burn. {who.He} sells the others for ${price} each.{spent} {ask}",
        f"{who} bakes {each} {item} on each of {trays} trays.{spent} {burnt} of the {item} are given away and the rest are sold at ${price} each. {ask}",
        f"{who} sells {item} for ${price} each.{spent} {who.He} made {trays} trays of {each}, but dropped {burnt} {item}. {ask}",
    )


@template("comparison")
def two_children(d: Draw) -> Story:
    """One has more, fewer or times as many as the other; their total or their difference is asked."""
    (a, b), item, n = d.people(2), d.item("collection"), d.number(10, 60)
    phrase, op = d.relation(item, 30)
    other = d.step(f"How many {item} does {b} have?", f"{b} has [{n}{op}] {item}.")
    word = d.pick("together", "apart")
    if word == "together":
        d.step(f"How many {item} do they have together?", f"Together they have [{n}+{other}] {item}.")
        ask = f"How many {item} do they have together?"
    else:
        d.require(op[0] in "*/")
        high, low = max(n, other), min(n, other)
        d.step("What is the difference?", f"The difference is [{high}-{low}] {item}.")
        ask = f"What is the difference between their numbers of {item}?"
    extra = d.aside(f"{a} is {d.number(7, 12)} years old.", f"{b} also has {d.number(2, 9)} books.")
    return d.ask(
        f"{a} has {n} {item}.{extra} {b} has {phrase} {a}. {ask}",
        f"{b} has {phrase} {a}, who has {n} {item}.{extra} {ask}",
        f"{a} and {b} collect {item}. {a} owns {n} of them, and {b} owns {phrase} {a}.{extra} {ask}",
    )


@template("comparison")
def three_children(d: Draw) -> Story:
    """A chain of two comparisons and the sum of all three."""
    (a, b, c), item, n = d.people(3), d.item("fruit"), d.number(8, 30)
    (phrase_b, op_b), (phrase_c, op_c) = d.relation(item), d.relation(item)
    start, of_start = d.pick((b, "b"), (a, "a"))
    mb = d.step(f"How many {item} does {b} pick?", f"{b} picks [{n}{op_b}] {item}.")
    mc = d.step(
        f"How many {item} does {c} pick?", f"{c} picks [{mb if of_start == 'b' else n}{op_c}] {item}."
    )
    two = d.step(f"How many {item} do {a} and {b} pick?", f"{a} and {b} pick [{n}+{mb}] {item}.")
    d.require(d.step(f"How many {item} do all three pick?", f"All three pick [{two}+{mc}] {item}.") < 300)
    return d.ask(
        f"{a} picks {n} {item}. {b} picks {phrase_b} {a}, and {c} picks {phrase_c} {start}. How many {item} do the three pick in all?",
        f"{c} picks {phrase_c} {start}. {b} picks {phrase_b} {a}. If {a} picks {n} {item}, how many do they pick together?",
        f"{a}, {b} and {c} pick {item}. {b} gets {phrase_b} {a} and {c} gets {phrase_c} {start}. {a} gets {n}. Find the total number of {item}.",
    )


@template("comparison")
def told_backwards(d: Draw) -> Story:
    """The known amount is said to be more or less than the unknown one."""
    (a, b), item, n, k = d.people(2), d.item("toy"), d.number(15, 80), d.number(3, 14)
    times = d.number(2, 5)
    phrase, expression = d.pick(
        (f"{k} more {item} than", f"{n}-{k}"),
        (f"{k} fewer {item} than", f"{n}+{k}"),
        (f"{times} times as many {item} as", f"{n}/{times}"),
        (f"half as many {item} as", f"{n}*2"),
    )
    other = d.step(f"How many {item} does {b} have?", f"{b} has [{expression}] {item}.")
    d.step("How many do both have?", f"Both have [{n}+{other}] {item}.")
    extra = d.aside(f"{a} got {d.number(2, 6)} of them as a present.")
    return d.ask(
        f"{a} has {n} {item}. That is {phrase} {b} has.{extra} How many {item} do both of them have?",
        f"{a} has {phrase} {b} has.{extra} If {a} has {n} {item}, how many {item} do they have in all?",
        f"With {n} {item}, {a} has {phrase} {b}.{extra} How many {item} do the two have altogether?",
    )


@template("comparison")
def match_points(d: Draw) -> Story:
    """Points of a game: goals of two values for two players, and who is ahead by how much."""
    (a, b), x, y = d.people(2), d.pick(2, 3), d.pick(4, 5, 10)
    p, q, r = d.number(5, 12), d.number(3, 9), d.number(4, 30)
    first = d.step(
        f"How many points does {a} get for small goals?", f"{a} gets [{p}*{x}] points for small goals."
    )
    second = d.step(
        f"How many points does {a} get for big goals?", f"{a} gets [{q}*{y}] points for big goals."
    )
    total = d.step(f"How many points does {a} have?", f"{a} has [{first}+{second}] points.")
    ask = f"How many points does {a} have?"
    if d.below(2):
        d.step(f"How many points is {a} ahead?", f"{a} is [{total}-{r}] points ahead.")
        ask = f"By how many points does {a} lead?"
    return d.ask(
        f"In a game a small goal counts {x} points and a big goal {y} points. {a} has {p} small and {q} big goals. {b} has {r} points. {ask}",
        f"{a} makes {p} small goals for {x} points each and {q} big goals for {y} points each. {b} has {r} points in all. {ask}",
        f"{b} has {r} points. {a} makes {q} big goals worth {y} points each and {p} small goals worth {x} each. {ask}",
    )


@template("comparison")
def tree_heights(d: Draw) -> Story:
    """Three heights from two comparisons; how far the highest is above the lowest."""
    trees = ["oak", "pine", "birch"]
    a, b, c = trees.pop(d.below(3)), trees.pop(d.below(2)), trees[0]
    low, k, more = d.number(6, 20), d.number(2, 4), d.number(3, 15)
    high = d.step(f"How high is the {b}?", f"The {b} is [{low}*{k}] feet high.")
    top = d.step(f"How high is the {c}?", f"The {c} is [{high}+{more}] feet high.")
    if d.below(2):
        d.step(f"How much higher is the {c} than the {a}?", f"The {c} is [{top}-{low}] feet higher.")
        ask = f"How many feet higher is the {c} than the {a}?"
    else:
        d.step("How high are the three together?", f"Together they are [{low}+{high}+{top}] feet high.")
        ask = "How many feet do the three heights add up to?"
    times = "twice" if k == 2 else f"{k} times"
    return d.ask(
        f"The {a} is {low} feet high. The {b} is {times} as high as the {a}, and the {c} is {more} feet higher than the {b}. {ask}",
        f"The {c} is {more} feet higher than the {b}, which is {times} as high as the {a}. The {a} is {low} feet high. {ask}",
        f"Three trees stand in a park. The {b} is {times} as high as the {a} of {low} feet. The {c} is {more} feet higher than the {b}. {ask}",
    )


@template("comparison")
def two_stores(d: Draw) -> Story:
    """The same shopping in two stores; how much the cheaper one saves."""
    who, item, n = d.person(), d.item("clothes"), d.number(3, 6)
    dear, cheap, fare = d.number(15, 30), d.number(6, 14), d.number(2, 9)
    high = d.step("How much is it at the mall?", f"At the mall they cost $[{dear}*{n}].")
    low = d.step("How much is it at the market?", f"At the market they cost $[{cheap}*{n}].")
    trip = d.step("How much is it at the market with the bus?", f"With the bus that is $[{low}+{fare}].")
    d.step("How much is saved?", f"The market saves $[{high}-{trip}].")
    return d.ask(
        f"{who} needs {n} {item}. They cost ${dear} each at the mall and ${cheap} each at the market, but the bus to the market costs ${fare}. How much does {who.he} save at the market?",
        f"At the mall {item.a} costs ${dear}. At the market it costs ${cheap}, plus ${fare} in all for the bus. How much cheaper are {n} {item} from the market?",
        f"The bus to the market is ${fare}. There, {item} are ${cheap} each, while the mall wants ${dear} each. How many dollars does {who} save by going to the market for {n} {item}?",
    )


@template("groups")
def theater_rows(d: Draw) -> Story:
    """Rows of seats, some of them taken."""
    rows, seats, groups, size = d.number(6, 20), d.pick(8, 9, 10, 20), d.number(2, 6), d.number(3, 15)
    place = d.pick("theater", "cinema", "hall")
    total = d.step(f"How many seats does the {place} have?", f"The {place} has [{rows}*{seats}] seats.")
    taken = d.step("How many seats are taken?", f"The classes take [{size}*{groups}] seats.")
    d.step("How many seats are empty?", f"[{total}-{taken}] seats are empty.")
    extra = d.aside(f"A seat costs ${d.number(5, 15)}.", f"The play lasts {d.number(60, 95)} minutes.")
    return d.ask(
        f"A {place} has {rows} rows of {seats} seats.{extra} {groups} classes with {size} children each sit down. How many seats stay empty?",
        f"{groups} classes of {size} children visit a {place} with {rows} rows of {seats} seats.{extra} How many seats are free?",
        f"There are {seats} seats in each of the {rows} rows of a {place}.{extra} How many seats are left after {groups} classes of {size} children have come?",
    )


@template("groups")
def boxes_sold(d: Draw) -> Story:
    """Things are packed into boxes, the boxes are sold."""
    item, box, boxes, price = d.item("fruit"), d.number(4, 9), d.number(6, 15), d.number(3, 9)
    bad = d.number(3, 20)
    total = box * boxes + bad
    good = d.step(f"How many good {item} are there?", f"There are [{total}-{bad}] good {item}.")
    full = d.step("How many boxes do they fill?", f"They fill [{good}/{box}] boxes.")
    d.step("How much money do the boxes bring?", f"The boxes bring $[{full}*{price}].")
    return d.ask(
        f"A farm has {total} {item}, but {bad} are bad. The good ones are packed in boxes of {box} and sold at ${price} a box. How much money do they bring?",
        f"{bad} of {total} {item} are bad. The others go into boxes, {box} in each, and each box is sold for ${price}. How many dollars is that?",
        f"A box of {box} {item} sells for ${price}. A farm picks {total} {item} and throws away {bad}. How much does it get for the rest?",
    )


@template("groups")
def nested_boxes(d: Draw) -> Story:
    """Boxes in cartons, things in boxes."""
    who, item = d.person(), d.item("collection")
    cartons, boxes, each, more = d.number(2, 6), d.number(3, 9), d.pick(2, 5, 10, 20), d.number(4, 40)
    all_boxes = d.step("How many boxes are there?", f"There are [{cartons}*{boxes}] boxes.")
    inside = d.step(f"How many {item} are in the boxes?", f"The boxes hold [{all_boxes}*{each}] {item}.")
    gives = d.below(2)
    d.step(
        f"How many {item} does {who} have now?",
        f"{who} now has [{inside}{'-' if gives else '+'}{more}] {item}.",
    )
    act = f"gives away {more} of the {item}" if gives else f"finds {more} more {item}"
    return d.ask(
        f"{who} has {cartons} cartons with {boxes} boxes in each. A box holds {each} {item}. Then {who.he} {act}. How many {item} does {who.he} have now?",
        f"Each box holds {each} {item}, and each carton holds {boxes} boxes. {who} owns {cartons} cartons and {act}. How many {item} does {who.he} have in the end?",
        f"There are {each} {item} in a box and {boxes} boxes in a carton. {who}, who has {cartons} cartons, {act}. How many {item} does {who.he} own now?",
    )


@template("groups")
def animal_legs(d: Draw) -> Story:
    """Legs of two kinds of animals."""
    bird, beast, a, b = d.item("bird"), d.item("beast"), d.number(4, 30), d.number(3, 20)
    left = d.number(2, min(a - 1, 9))
    stay = d.step(f"How many {bird} stay?", f"[{a}-{left}] {bird} stay.")
    two = d.step(f"How many legs do these {bird} have?", f"The {bird} have [{stay}*2] legs.")
    four = d.step(f"How many legs do the {beast} have?", f"The {beast} have [{b}*4] legs.")
    d.step("How many legs are there in all?", f"There are [{two}+{four}] legs in all.")
    return d.ask(
        f"On a farm are {a} {bird} and {b} {beast}. {left} {bird} run away. How many legs do the animals that are left have?",
        f"A farmer keeps {b} {beast} and {a} {bird}. If {left} {bird} are sold, how many legs do all the other animals have together?",
        f"{b} {beast} and {a} {bird} stand in a yard. Then {left} of the {bird} leave. Count the legs in the yard. How many are there?",
    )


@template("groups")
def teams_of_classes(d: Draw) -> Story:
    """Children of several classes form teams."""
    size, teams, away = d.number(3, 9), d.number(5, 20), d.number(2, 9)
    classes = d.number(2, 6)
    here = size * teams + away
    d.require(here % classes == 0 and 12 <= here // classes <= 40)
    each = here // classes
    total = d.step("How many children are in the classes?", f"The classes have [{each}*{classes}] children.")
    come = d.step("How many children come?", f"[{total}-{away}] children come.")
    d.step("How many teams are there?", f"They make [{come}/{size}] teams.")
    return d.ask(
        f"{classes} classes have {each} children each. On sports day {away} children are ill and the others make teams of {size}. How many teams are there?",
        f"For a game, {classes} classes of {each} children are put in teams of {size}. {away} children only watch. How many teams play?",
        f"A team needs {size} children. There are {classes} classes with {each} children each, but {away} children stay at home. How many teams can be made?",
    )


@template("groups")
def garden_rows(d: Draw) -> Story:
    """Two beds of rows; the flowers are bound into bunches."""
    who, flower = d.person(), d.item("flower")
    a, b, c, e = d.number(3, 9), d.number(5, 12), d.number(3, 9), d.number(5, 12)
    bunch = d.number(3, 9)
    one = d.step(f"How many {flower} are in the first bed?", f"The first bed has [{b}*{a}] {flower}.")
    two = d.step(f"How many {flower} are in the second bed?", f"The second bed has [{e}*{c}] {flower}.")
    total = d.step(f"How many {flower} are there?", f"There are [{one}+{two}] {flower}.")
    d.step("How many bunches are there?", f"{who} makes [{total}/{bunch}] bunches.")
    extra = d.aside(f"A bunch costs ${d.number(4, 12)}.", f"{who} works for {d.number(2, 9)} hours.")
    return d.ask(
        f"{who} has a bed with {a} rows of {b} {flower} and a bed with {c} rows of {e} {flower}.{extra} {who.He} cuts all of them and makes bunches of {bunch}. How many bunches are there?",
        f"{who} plants {flower}: {a} rows of {b} in one bed and {c} rows of {e} in another.{extra} How many bunches of {bunch} do they make?",
        f"A bunch has {bunch} {flower}. {who} cuts {a} rows of {b} {flower} in one bed and {c} rows of {e} in the next.{extra} How many bunches can {who.he} make?",
    )
