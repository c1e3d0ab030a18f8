"""Short problems in every category: one or two steps, so that what is hard is which numbers count, and how."""

from __future__ import annotations

from reckoner.tasks.templates.story import Draw, Story, template


@template("change")
def pay_one_thing(d: Draw) -> Story:
    """One price, one note, and a number that does not matter."""
    who, item, price, bill = d.person(), d.item("clothes"), d.number(11, 89), d.pick(50, 100)
    d.step(f"How much change does {who} get?", f"{who} gets $[{bill}-{price}] back.")
    extra = d.aside(
        f"The shop has {d.number(5, 30)} of them.",
        f"{who} is {d.number(10, 40)} years old.",
        f"The shop opens at {d.number(7, 9)} a.m.",
    )
    return d.ask(
        f"{who} buys {item.a} for ${price} and pays with a ${bill} note.{extra} How much change does {who.he} get?",
        f"{item.a.capitalize()} costs ${price}.{extra} {who} hands over ${bill}. How many dollars come back?",
        f"With a ${bill} note {who} pays for {item.a}.{extra} The price is ${price}. What is the change in dollars?",
    )


@template("comparison")
def how_many_more(d: Draw) -> Story:
    """The difference between two of three numbers."""
    (a, b, c), item = d.people(3), d.item("collection")
    x, y, z = d.number(40, 99), d.number(12, 38), d.number(12, 99)
    if d.below(2):
        d.step(f"How many more does {a} have than {b}?", f"{a} has [{x}-{y}] more {item}.")
        ask = f"How many more {item} does {a} have than {b}?"
    else:
        d.step(f"How many do {a} and {b} have?", f"{a} and {b} have [{x}+{y}] {item}.")
        ask = f"How many {item} do {a} and {b} have together?"
    return d.ask(
        f"{a} has {x} {item}, {b} has {y} and {c} has {z}. {ask}",
        f"{c} owns {z} {item}. {b} owns {y} and {a} owns {x}. {ask}",
        f"Three friends count their {item}: {b} has {y}, {c} has {z} and {a} has {x}. {ask}",
    )


@template("conversion")
def dozens(d: Draw) -> Story:
    """Dozens to pieces, some used."""
    who, n, used, item = (
        d.person(),
        d.number(2, 9),
        d.number(3, 20),
        d.pick("eggs", "rolls", "roses", "lemons"),
    )
    total = d.step(f"How many {item} are {n} dozen?", f"{n} dozen are [{n}*12] {item}.")
    if d.below(2):
        d.step(f"How many {item} are left?", f"[{total}-{used}] {item} are left.")
        more, ask = f" and uses {used} of them", f"How many {item} are left?"
    else:
        more, ask = "", f"How many {item} is that?"
    return d.ask(
        f"{who} buys {n} dozen {item}{more}. {ask}",
        f"From the market {who} brings {n} dozen {item}{more}. {ask}",
        f"{item.capitalize()} are sold by the dozen. {who} takes {n} dozen{more}. {ask}",
    )


@template("conversion")
def long_walk(d: Draw) -> Story:
    """Kilometers to meters, minus what is done."""
    who, km, done = d.person(), d.number(2, 9), d.number(150, 1900, 50)
    how, past = d.pick(("walk", "walked"), ("run", "run"), ("ride", "ridden"))
    total = d.step(f"How many meters are {km} kilometers?", f"{km} kilometers are [{km}*1000] meters.")
    d.step("How many meters are left?", f"[{total}-{done}] meters are left.")
    return d.ask(
        f"{who} wants to {how} {km} kilometers. After {done} meters {who.he} takes a rest. How many meters are left?",
        f"A course is {km} kilometers long, and {who} has {past} {done} meters of it. How many meters does {who.he} still have to {how}?",
        f"{who} has {past} {done} meters. How many more meters make {km} kilometers?",
    )


@template("ages")
def age_at_event(d: Draw) -> Story:
    """An age some years before or after now."""
    (a, b), age, years = d.people(2), d.number(20, 60), d.number(3, 15)
    if d.below(2):
        d.step(f"How old was {a} then?", f"{a} was [{age}-{years}] years old.")
        told, ask = f"moved to the city {years} years ago", f"How old was {a} then?"
    else:
        d.step(f"How old will {a} be then?", f"{a} will be [{age}+{years}] years old.")
        told, ask = f"will stop working in {years} years", f"How old will {a} be then?"
    extra = d.aside(f"{b} is {d.number(12, 70)} years old.", f"{a} has {d.number(2, 5)} children.")
    return d.ask(
        f"{a} is {age} years old.{extra} {a.He} {told}. {ask}",
        f"{a}, who is now {age}, {told}.{extra} {ask}",
        f"At the age of {age}, {a} tells {b} about {a.his} life: {a.he} {told}.{extra} {ask}",
    )


@template("groups")
def times_or_share(d: Draw) -> Story:
    """Equal groups: the total, or the size of a group."""
    who, item, boxes, each = d.person(), d.item("fruit"), d.number(3, 9), d.number(4, 25)
    if d.below(2):
        d.step(f"How many {item} are there?", f"There are [{each}*{boxes}] {item}.")
        told, ask = f"{boxes} boxes with {each} {item} in each", f"How many {item} are there?"
    else:
        d.step(f"How many {item} are in a box?", f"In a box are [{each * boxes}/{boxes}] {item}.")
        told, ask = f"{each * boxes} {item} in {boxes} equal boxes", f"How many {item} are in each box?"
    extra = d.aside(
        f"A box weighs {d.number(2, 9)} pounds.", f"{who} drives {d.number(10, 40)} miles with them."
    )
    return d.ask(
        f"{who} has {told}.{extra} {ask}",
        f"In a truck are {told}, all for {who}.{extra} {ask}",
        f"To the market {who} brings {told}.{extra} {ask}",
    )


@template("rates")
def words_and_minutes(d: Draw) -> Story:
    """Work per minute: how much in a time, or how long for a piece of work."""
    who, rate, minutes = d.person(), d.pick(4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 30), d.number(3, 12)
    verb, what = d.pick(("types", "words"), ("sorts", "letters"), ("counts", "coins"), ("checks", "tickets"))
    more = d.number(5, 50)
    if d.below(2):
        new = d.step(f"How many {what} is that?", f"In {minutes} minutes that is [{rate}*{minutes}] {what}.")
        d.step(f"How many {what} are there in all?", f"In all there are [{new}+{more}] {what}.")
        told, ask = f"{more} {what} are done", f"How many {what} are done after {minutes} more minutes?"
    else:
        total = rate * minutes + more
        left = d.step(f"How many {what} are left?", f"[{total}-{more}] {what} are left.")
        d.step("How many minutes does that take?", f"That takes [{left}/{rate}] minutes.")
        told, ask = f"{more} of {total} {what} are done", "How many more minutes does the work take?"
    return d.ask(
        f"{who} {verb} {rate} {what} a minute. {told.capitalize()}. {ask}",
        f"Now {told}. {who} {verb} {rate} {what} a minute. {ask}",
        f"Each minute {who} {verb} {rate} {what}, and {told} already. {ask}",
    )


@template("wages")
def hours_for_money(d: Draw) -> Story:
    """Pay from hours, or hours from pay."""
    who, rate, hours, have = (
        d.person(),
        d.pick(6, 7, 8, 9, 10, 11, 12, 15, 20, 30),
        d.number(3, 12),
        d.number(10, 90),
    )
    if d.below(2):
        pay = d.step(f"How much does {who} earn?", f"{who} earns $[{rate}*{hours}].")
        d.step(f"How much does {who} have then?", f"Then {who.he} has $[{pay}+{have}].")
        ask = f"How much money does {who.he} have after {hours} hours of work?"
    else:
        goal = have + rate * hours
        need = d.step(f"How much does {who} need?", f"{who} needs $[{goal}-{have}] more.")
        d.step(f"How many hours must {who} work?", f"{who.He} must work [{need}/{rate}] hours.")
        ask = f"How many hours must {who.he} work to have ${goal}?"
    return d.ask(
        f"{who} has ${have} and earns ${rate} an hour. {ask}",
        f"{who} has a job that pays ${rate} an hour, and {who.he} already has ${have}. {ask}",
        f"{who} gets ${rate} for every hour of work. In the bank {who.he} has ${have}. {ask}",
    )


@template("percentages")
def percent_of_crowd(d: Draw) -> Story:
    """A percentage of a large round number, or the others."""
    place, n, p = d.pick("concert", "match", "fair"), d.number(200, 4000, 200), d.pick(10, 20, 25, 50)
    part = d.step("How many are children?", f"[{n}*{p}/100] people are children.")
    ask = "How many are children?"
    if d.below(2):
        d.step("How many are adults?", f"[{n}-{part}] people are adults.")
        ask = "How many are adults?"
    extra = d.aside(f"A ticket costs ${d.number(5, 60)}.", f"It lasts {d.number(2, 5)} hours.")
    return d.ask(
        f"{n} people go to a {place}.{extra} {p}% of the people are children and the rest are adults. {ask}",
        f"Of the {n} people at a {place}, {p}% are children and the others are adults.{extra} {ask}",
        f"At a {place}, {p}% of the people are children, the others are adults.{extra} {n} people come. {ask}",
    )


@template("fractions")
def part_of_class(d: Draw) -> Story:
    """One fraction of a number, or what is left without it."""
    k, place = d.pick(2, 3, 4, 5, 6), d.pick("class", "choir", "club", "camp")
    n = k * d.number(3, 16)
    what = d.pick("wear glasses", "have a dog", "play chess", "like soup")
    word = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 6: "a sixth"}[k]
    part = d.step(f"How many children {what}?", f"[{n}/{k}] children {what}.")
    ask = f"How many children {what}?"
    if d.below(2):
        d.step("How many children are the others?", f"The others are [{n}-{part}] children.")
        ask = f"How many children do not {what}?"
    extra = d.aside(f"They are {d.number(7, 9)} years old.", f"They meet at {d.number(8, 11)} a.m.")
    return d.ask(
        f"In a {place} of {n} children, {word} {what}.{extra} {ask}",
        f"There are {n} children in a {place}.{extra} {word.capitalize()} of the children {what}. {ask}",
        f"{word.capitalize()} of the children in a {place} {what}.{extra} The {place} has {n} children. {ask}",
    )


@template("below zero")
def diver(d: Draw) -> Story:
    """Heights above and below the sea."""
    who, start, down, up = d.person(), d.number(2, 12), d.number(13, 40), d.number(3, 10)
    depth = d.step(
        f"Where is {who} after the jump?", f"After the jump {who} is at [{start}-{down}] feet.", least=-40
    )
    ask = f"At what height is {who}, as a negative number if below the water?"
    more = ""
    if d.below(2):
        d.require(depth + up < 0)
        d.step(
            f"Where is {who} after coming up?",
            f"After coming up {who.he} is at [{depth}+{up}] feet.",
            least=-40,
        )
        more = f", then comes up {up} feet"
    return d.ask(
        f"{who} stands {start} feet above the water, jumps and moves down {down} feet in all{more}. {ask}",
        f"From a rock {start} feet over the water {who} jumps. {who.He} goes {down} feet down{more}. {ask}",
        f"{who} goes down {down} feet from a place {start} feet above the water{more}. {ask}",
    )


@template("multi-step")
def town_people(d: Draw) -> Story:
    """Large numbers with commas: people move in and out."""
    n, come, go = d.number(1200, 9500, 100), d.number(200, 900, 100), d.number(100, 800, 100)
    place, kind = d.pick(("town", "people"), ("library", "books"), ("lake", "fish"))
    gain, loss = {
        "people": ("move in", "move away"),
        "books": ("are bought", "are sold"),
        "fish": ("are born", "are caught"),
    }[kind]
    grown = d.step(
        f"How many {kind} are there after the gain?", f"With the new ones there are [{n}+{come}] {kind}."
    )
    d.step(f"How many {kind} are there in the end?", f"In the end there are [{grown}-{go}] {kind}.")
    return d.ask(
        f"A {place} has {n} {kind}. This year {come} {kind} {gain} and {go} {loss}. How many {kind} are there then?",
        f"Within a year {go} {kind} {loss} and {come} {gain}. At first the {place} had {n} {kind}. How many are there after that year?",
        f"There are {n} {kind} in a {place}. {come} more {gain}, but {go} {loss}. How many {kind} is that at the end?",
    )
