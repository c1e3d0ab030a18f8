"""Unit conversion, perimeter and area, and elapsed time."""

from __future__ import annotations

from reckoner.tasks.templates.story import Draw, Story, template


@template("conversion")
def hours_to_minutes(d: Draw) -> Story:
    """Hours a week become minutes, divided into sessions."""
    who, hours, part = d.person(), d.number(2, 9), d.pick(10, 15, 20, 30)
    done = d.number(10, 50, 10)
    what = d.pick("read", "practice the piano", "train", "draw")
    total = d.step("How many minutes is that?", f"{hours} hours are [{hours}*60] minutes.")
    rest = d.step("How many minutes are left?", f"[{total}-{done}] minutes are left.")
    d.step("How many sessions is that?", f"That makes [{rest}/{part}] sessions.")
    extra = d.aside(
        f"{who} is {d.number(7, 12)} years old.", f"{who.He} started {d.number(2, 8)} months ago."
    )
    return d.ask(
        f"{who} wants to {what} for {hours} hours this week.{extra} {who.He} has done {done} minutes. How many sessions of {part} minutes are still to do?",
        f"This week {who} plans to {what} for {hours} hours in sessions of {part} minutes.{extra} After the first {done} minutes, how many such sessions are left?",
        f"{who} has to {what} for {hours} hours, and {done} minutes are done.{extra} How many sessions of {part} minutes does {who.he} still need?",
    )


@template("conversion")
def ribbon_meters(d: Draw) -> Story:
    """Meters to centimeters; pieces are cut and the rest is asked."""
    who, meters, n, piece = d.person(), d.number(2, 9), d.number(3, 9), d.number(10, 60, 5)
    total = d.step(
        "How many centimeters long is the ribbon?", f"The ribbon is [{meters}*100] centimeters long."
    )
    cut = d.step("How many centimeters are cut off?", f"{who} cuts off [{piece}*{n}] centimeters.")
    d.step("How many centimeters are left?", f"[{total}-{cut}] centimeters are left.")
    return d.ask(
        f"{who} has {meters} meters of ribbon and cuts off {n} pieces of {piece} centimeters each. How many centimeters are left?",
        f"From a ribbon of {meters} meters {who} cuts {n} pieces, each {piece} centimeters long. How long is the rest in centimeters?",
        f"{n} bows need {piece} centimeters of ribbon each. {who} makes them from {meters} meters. How many centimeters remain?",
    )


@template("conversion")
def feet_and_inches(d: Draw) -> Story:
    """A height in feet and inches and a box or a growth, in inches."""
    (a, b), feet, inches, n = d.people(2), d.number(3, 6), d.number(2, 11), d.number(2, 9)
    base = d.step(f"How many inches are {feet} feet?", f"The {feet} feet are [{feet}*12] inches.")
    tall = d.step(f"How many inches tall is {a}?", f"{a} is [{base}+{inches}] inches tall.")
    word, sign = d.pick(("taller", "+"), ("shorter", "-"))
    d.step(f"How many inches tall is {b}?", f"{b} is [{tall}{sign}{n}] inches tall.")
    return d.ask(
        f"{a} is {feet} feet and {inches} inches tall. {b} is {n} inches {word} than {a}. How many inches tall is {b}?",
        f"{b} is {n} inches {word} than {a}, who measures {feet} feet {inches} inches. What is the height of {b} in inches?",
        f"A foot has twelve inches. {a} is {feet} feet {inches} inches tall and {b} is {n} inches {word}. How many inches is {b}?",
    )


@template("conversion")
def juice_glasses(d: Draw) -> Story:
    """Liters to milliliters, poured into glasses."""
    who, liters, glass = d.person(), d.number(2, 6), d.pick(100, 200, 250)
    spilled = d.number(100, 900, 50)
    total = d.step("How many milliliters are there?", f"There are [{liters}*1000] milliliters.")
    rest = d.step("How many milliliters are left?", f"After that [{total}-{spilled}] milliliters are left.")
    d.step("How many glasses can be filled?", f"{who} can fill [{rest}/{glass}] glasses.")
    act = d.pick("drinks", "spills", "sells")
    return d.ask(
        f"{who} has {liters} liters of juice and {act} {spilled} milliliters. How many glasses of {glass} milliliters can be filled with the rest?",
        f"A glass holds {glass} milliliters. From {liters} liters of juice {who} {act} {spilled} milliliters. How many full glasses are left?",
        f"There are {liters} liters of juice. {who} {act} {spilled} milliliters of it and pours the rest into glasses of {glass} milliliters. How many glasses is that?",
    )


@template("conversion")
def coins_to_cents(d: Draw) -> Story:
    """Dollars and coins in cents, spent on cheap things."""
    who, item = d.person(), d.item("school")
    dollars, coins, value, price = d.number(2, 6), d.number(3, 12), d.pick(5, 10, 25), d.pick(20, 25, 30, 50)
    cents = d.step(f"How many cents are ${dollars}?", f"${dollars} is [{dollars}*100] cents.")
    extra = d.step("How many cents are the coins?", f"The coins are [{coins}*{value}] cents.")
    total = d.step(f"How many cents does {who} have?", f"{who} has [{cents}+{extra}] cents.")
    d.step(f"How many {item} can {who} buy?", f"{who.He} can buy [{total}/{price}] {item}.")
    return d.ask(
        f"{who} has ${dollars} and {coins} coins of {value} cents. How many {item} for {price} cents each can {who.he} buy?",
        f"One of the {item} costs {price} cents. {who} has ${dollars} in notes and {coins} coins of {value} cents. How many {item} can {who.he} pay for?",
        f"In {who.his} box {who} finds {coins} coins of {value} cents and ${dollars} in notes. At {price} cents each, how many {item} does that buy?",
    )


@template("conversion")
def sacks_of_grams(d: Draw) -> Story:
    """Kilograms to grams, used by days."""
    animal, kilos, day, days = (
        d.pick("dog", "cat", "rabbit"),
        d.number(2, 6),
        d.number(60, 250, 10),
        d.number(3, 9),
    )
    total = d.step("How many grams are in the sack?", f"The sack holds [{kilos}*1000] grams.")
    eaten = d.step(f"How many grams does the {animal} eat?", f"The {animal} eats [{day}*{days}] grams.")
    d.step("How many grams are left?", f"[{total}-{eaten}] grams are left.")
    extra = d.aside(f"The sack costs ${d.number(8, 30)}.", f"The {animal} is {d.number(2, 9)} years old.")
    return d.ask(
        f"A sack holds {kilos} kilograms of food. A {animal} eats {day} grams a day.{extra} How many grams are left after {days} days?",
        f"A {animal} gets {day} grams of food a day from a sack of {kilos} kilograms.{extra} How many grams are in the sack after {days} days?",
        f"For {days} days a {animal} eats {day} grams each day.{extra} The sack had {kilos} kilograms at first. How many grams does it have now?",
    )


@template("conversion")
def weeks_to_days(d: Draw) -> Story:
    """Weeks to days times a daily amount."""
    who, weeks, days, each = d.person(), d.number(2, 9), d.number(2, 6), d.number(2, 5)
    what = d.pick("miles", "pages", "puzzles", "laps")
    verb = {"miles": "walks", "pages": "reads", "puzzles": "solves", "laps": "swims"}[what]
    whole = d.step(f"How many days are {weeks} weeks?", f"{weeks} weeks are [{weeks}*7] days.")
    total = d.step("How many days are there in all?", f"In all there are [{whole}+{days}] days.")
    d.step(f"How many {what} is that?", f"{who} {verb} [{total}*{each}] {what}.")
    return d.ask(
        f"{who} {verb} {each} {what} a day for {weeks} weeks and {days} days. How many {what} is that in all?",
        f"For {weeks} weeks and {days} days, {who} {verb} {each} {what} every day. How many {what} does that make?",
        f"Every day {who} {verb} {each} {what}. How many {what} does {who.he} reach after {weeks} weeks and {days} more days?",
    )


@template("geometry")
def fence_cost(d: Draw) -> Story:
    """The perimeter of a rectangle times a price, or minus a gate."""
    what, a, b, price = d.pick("garden", "yard", "field"), d.number(20, 40), d.number(5, 19), d.number(2, 9)
    gate = d.number(2, 6)
    half = d.step("How long are two sides together?", f"Two sides are [{a}+{b}] feet.")
    around = d.step(f"How far is it around the {what}?", f"Around it there are [{half}*2] feet.")
    fence = d.step("How long is the fence?", f"The fence is [{around}-{gate}] feet long.")
    ask = "How many feet of fence are needed?"
    if d.below(2):
        d.step("How much does the fence cost?", f"The fence costs $[{fence}*{price}].")
        ask = f"One foot of fence costs ${price}. How much is the fence?"
    return d.ask(
        f"A {what} is {a} feet long and {b} feet wide. A fence goes around it, except for a gate of {gate} feet. {ask}",
        f"All around a {what} of {a} by {b} feet there will be a fence with an opening of {gate} feet. {ask}",
        f"A gate of {gate} feet needs no fence, but the rest of the way around a {what} {a} feet long and {b} feet wide does. {ask}",
    )


@template("geometry")
def area_minus_pond(d: Draw) -> Story:
    """The area of a rectangle without another one inside."""
    a, b, c, e = d.number(10, 30), d.number(6, 9), d.number(2, 5), d.number(2, 5)
    whole, part = d.pick(("garden", "pond"), ("yard", "shed"), ("wall", "window"))
    total = d.step(f"What is the area of the {whole}?", f"The {whole} is [{a}*{b}] square feet.")
    small = d.step(f"What is the area of the {part}?", f"The {part} is [{c}*{e}] square feet.")
    d.step("What area is left?", f"[{total}-{small}] square feet are left.")
    extra = d.aside(
        f"The {part} is {d.number(2, 9)} years old.", f"The {whole} cost ${d.number(100, 900, 50)}."
    )
    return d.ask(
        f"A {whole} is {a} feet by {b} feet. In it is a {part} of {c} feet by {e} feet.{extra} How many square feet of the {whole} are left?",
        f"A {part} measures {c} by {e} feet and is in a {whole} of {a} by {b} feet.{extra} How large is the {whole} without the {part}, in square feet?",
        f"A {whole} is {a} by {b} feet. Its {part} is {c} feet long and {e} feet wide.{extra} How many square feet are there without the {part}?",
    )


@template("geometry")
def square_from_perimeter(d: Draw) -> Story:
    """The area of a square whose perimeter is known, minus or times something."""
    side, kind = d.number(4, 20), d.below(2)
    around = side * 4
    one = d.step("How long is one side?", f"One side is [{around}/4] feet.")
    area = d.step("What is the area?", f"The area is [{one}*{one}] square feet.")
    if kind:
        used = d.number(4, max(side * side // 2, 5))
        d.step("What area is free?", f"[{area}-{used}] square feet are free.")
        more, ask = f"A rug covers {used} square feet.", "How many square feet are free?"
    else:
        n = d.number(2, 4)
        d.step("What is the area of all rooms?", f"All rooms have [{area}*{n}] square feet.")
        more, ask = f"There are {n} such rooms.", "How many square feet do they have together?"
    return d.ask(
        f"The four sides of a square room add up to {around} feet. {more} {ask}",
        f"It is {around} feet around a square room. {more} {ask}",
        f"A square room has a perimeter of {around} feet. {more} {ask}",
    )


@template("geometry")
def width_by_relation(d: Draw) -> Story:
    """Length and width in a relation; area or perimeter."""
    what, w = d.pick("carpet", "poster", "garden", "pool"), d.number(3, 9)
    k, more = d.number(2, 4), d.number(2, 9)
    phrase, op = d.pick(
        (f"{'twice' if k == 2 else f'{k} times'} as long as it is wide", f"*{k}"),
        (f"{more} feet longer than it is wide", f"+{more}"),
    )
    length = d.step(f"How long is the {what}?", f"The {what} is [{w}{op}] feet long.")
    if d.below(2):
        d.step("What is the area?", f"The area is [{length}*{w}] square feet.")
        ask = "area in square feet"
    else:
        half = d.step("How long are two sides?", f"Two sides are [{length}+{w}] feet.")
        d.step("What is the perimeter?", f"The perimeter is [{half}*2] feet.")
        ask = "perimeter in feet"
    return d.ask(
        f"A {what} is {w} feet wide. It is {phrase}. What is its {ask}?",
        f"A {what} is {phrase}. If the width is {w} feet, what is the {ask}?",
        f"What is the {ask} of a {what} that is {phrase}, with a width of {w} feet?",
    )


@template("geometry")
def tiles_on_floor(d: Draw) -> Story:
    """Square tiles cover a floor and come in boxes."""
    tile, x, y, price = d.number(2, 3), d.number(3, 9), d.number(3, 9), d.number(2, 9)
    a, b = tile * x, tile * y
    across = d.step("How many tiles lie along the length?", f"Along the length lie [{a}/{tile}] tiles.")
    down = d.step("How many tiles lie along the width?", f"Along the width lie [{b}/{tile}] tiles.")
    total = d.step("How many tiles are needed?", f"[{across}*{down}] tiles are needed.")
    d.step("How much do the tiles cost?", f"The tiles cost $[{total}*{price}].")
    return d.ask(
        f"A floor of {a} by {b} feet is covered with square tiles whose sides are {tile} feet long. A tile costs ${price}. How much do all the tiles cost?",
        f"Square tiles have sides of {tile} feet and cost ${price} each. How many dollars are the tiles for a floor of {a} by {b} feet?",
        f"A room is {a} feet long and {b} feet wide. Its floor gets square tiles, {tile} feet on each side, at ${price} a tile. What do they cost?",
    )


@template("geometry")
def two_rooms_paint(d: Draw) -> Story:
    """Two rectangles together; cans of paint."""
    who, can = d.person(), d.pick(5, 6, 8, 10)
    a, b, c, e = d.number(5, 15), d.number(4, 9), d.number(5, 15), d.number(4, 9)
    d.require((a * b + c * e) % can == 0)
    one = d.step("What is the area of the first wall?", f"The first wall is [{a}*{b}] square feet.")
    two = d.step("What is the area of the second wall?", f"The second wall is [{c}*{e}] square feet.")
    total = d.step("What is the whole area?", f"The whole area is [{one}+{two}] square feet.")
    d.step("How many cans are needed?", f"{who} needs [{total}/{can}] cans.")
    return d.ask(
        f"{who} paints a wall of {a} by {b} feet and a wall of {c} by {e} feet. A can is enough for {can} square feet. How many cans does {who.he} need?",
        f"One can of paint covers {can} square feet. How many cans does {who} need for two walls, {a} by {b} feet and {c} by {e} feet?",
        f"Two walls, one {a} feet by {b} feet, the other {c} feet by {e} feet, are painted by {who}. Each can covers {can} square feet. How many cans are used?",
    )


@template("elapsed time")
def clock_span(d: Draw) -> Story:
    """Minutes from one clock time to a later one."""
    what = d.pick("A film", "A match", "A party", "A concert")
    h, k, m, n = d.number(1, 8), d.number(2, 3), d.number(5, 25, 5), d.number(5, 30, 5)
    hours = d.step(
        "How many full hours is that?", f"Between {h} and {h + k} o'clock there are [{h + k}-{h}] hours."
    )
    whole = d.step("How many minutes are these hours?", f"These are [{hours}*60] minutes.")
    rest = d.step("How many minutes come after that?", f"After that come [{m + n}-{m}] minutes.")
    d.step("How many minutes does it last?", f"It lasts [{whole}+{rest}] minutes.")
    extra = d.aside(f"A ticket costs ${d.number(5, 30)}.", f"{d.number(31, 90)} people come.")
    return d.ask(
        f"{what} starts at {h}:{m:02d} p.m. and ends at {h + k}:{m + n} p.m.{extra} How many minutes does it last?",
        f"{what} begins at {h}:{m:02d} p.m.{extra} The end is at {h + k}:{m + n} p.m. How many minutes are there from start to end?",
        f"{what} goes on from {h}:{m:02d} p.m. until {h + k}:{m + n} p.m.{extra} How many minutes long is it?",
    )


@template("elapsed time")
def time_budget(d: Draw) -> Story:
    """Hours to minutes minus tasks."""
    who, hours, a, b = d.person(), d.number(2, 4), d.number(15, 50), d.number(10, 50)
    x, y = d.pick(("lunch", "homework"), ("shopping", "cooking"), ("a walk", "a phone call"))
    total = d.step(f"How many minutes does {who} have?", f"{who} has [{hours}*60] minutes.")
    used = d.step(f"How many minutes does {who} use?", f"{who.He} uses [{a}+{b}] minutes.")
    d.step("How many minutes are left?", f"[{total}-{used}] minutes are left.")
    return d.ask(
        f"{who} has {hours} hours before {who.he} must go. {x.capitalize()} takes {a} minutes and {y} {b} minutes. How many minutes are left?",
        f"{who} has a train to catch in {hours} hours. How many free minutes does {who.he} have after {a} minutes for {x} and {b} minutes for {y}?",
        f"{who} needs {a} minutes for {x} and {b} minutes for {y}. {who.He} has {hours} hours. How many minutes can {who.he} rest?",
    )


@template("elapsed time")
def work_week(d: Draw) -> Story:
    """Working hours of a day, a break taken off, times days."""
    who, start, span, pause, days = d.person(), d.number(6, 9), d.number(7, 9), d.number(1, 2), d.number(3, 6)
    end = start + span - 12
    d.require(end >= 1)
    morning = d.step(f"How many hours is {who} there until noon?", f"Until noon it is [12-{start}] hours.")
    length = d.step(
        f"How many hours is {who} there a day?", f"Until {end} p.m. it is [{morning}+{end}] hours."
    )
    work = d.step(f"How many hours does {who} work a day?", f"{who} works [{length}-{pause}] hours a day.")
    d.step(f"How many hours is that in {days} days?", f"In {days} days that is [{work}*{days}] hours.")
    rest = "a break of 1 hour" if pause == 1 else "a break of 2 hours"
    return d.ask(
        f"{who} starts work at {start} a.m., stops at {end} p.m. and has {rest}. How many hours does {who.he} work in {days} days?",
        f"Every day {who} is at work from {start} a.m. to {end} p.m. with {rest}. How many hours of work is that in {days} days?",
        f"On {days} days a week {who} works from {start} a.m. to {end} p.m., with {rest} each day. How many hours does {who.he} work a week?",
    )


@template("elapsed time")
def trip_legs(d: Draw) -> Story:
    """A trip of three legs; the time back is different."""
    who, a, b, c, k = d.person(), d.number(5, 20), d.number(10, 60, 5), d.number(4, 20), d.number(3, 10)
    walk = d.step(f"How many minutes does {who} walk on the way there?", f"{who} walks [{a}+{c}] minutes.")
    there = d.step("How many minutes is the way there?", f"The way there takes [{walk}+{b}] minutes.")
    word, sign = d.pick(("longer", "+"), ("shorter", "-"))
    back = d.step("How many minutes is the way back?", f"The way back takes [{there}{sign}{k}] minutes.")
    d.step("How many minutes is the whole trip?", f"The whole trip takes [{there}+{back}] minutes.")
    return d.ask(
        f"{who} walks {a} minutes to the train, rides {b} minutes and walks {c} minutes to the zoo. The way back is {k} minutes {word}. How many minutes is the whole trip?",
        f"To get to the zoo, {who} walks {a} minutes, takes a train for {b} minutes and walks {c} minutes more. The way home is {k} minutes {word}. How many minutes are both ways?",
        f"The way home from the zoo is {k} minutes {word} than the way there, on which {who} walks {a} minutes, rides {b} and walks {c}. How many minutes is that in all?",
    )


@template("elapsed time")
def study_plan(d: Draw) -> Story:
    """Weeks and days until an exam, hours a day, some days off."""
    who, weeks, days, off, hours = d.person(), d.number(2, 6), d.number(2, 6), d.number(2, 9), d.number(2, 5)
    whole = d.step(f"How many days are {weeks} weeks?", f"{weeks} weeks have [{weeks}*7] days.")
    total = d.step("How many days are there?", f"There are [{whole}+{days}] days.")
    left = d.step(f"On how many days does {who} study?", f"{who} studies on [{total}-{off}] days.")
    d.step(f"How many hours does {who} study?", f"{who.He} studies [{left}*{hours}] hours.")
    return d.ask(
        f"{who} has an exam in {weeks} weeks and {days} days. {who.He} rests on {off} days and studies {hours} hours on each of the others. How many hours does {who.he} study?",
        f"{who} has {weeks} weeks and {days} days until an exam. {who.He} studies {hours} hours a day but takes {off} days off. How many hours is that?",
        f"Before an exam in {weeks} weeks and {days} days, {who} studies {hours} hours every day, except on {off} free days. How many hours is that in all?",
    )


@template("elapsed time")
def series_evenings(d: Draw) -> Story:
    """Episodes of some minutes, watched in the evenings, in hours."""
    who, n, length, evenings = d.person(), d.number(2, 4), d.pick(20, 30, 40, 45, 60), d.number(2, 9)
    day = d.step("How many minutes is that an evening?", f"{who} watches [{length}*{n}] minutes an evening.")
    total = d.step("How many minutes is that in all?", f"In all that is [{day}*{evenings}] minutes.")
    d.step("How many hours is that?", f"That is [{total}/60] hours.")
    return d.ask(
        f"{who} watches {n} shows of {length} minutes each evening. How many hours does {who.he} watch in {evenings} evenings?",
        f"A show is {length} minutes long. {who} sees {n} shows every evening for {evenings} evenings. How many hours is that?",
        f"On each of {evenings} evenings, {who} watches {n} shows that take {length} minutes each. How many hours is that in all?",
    )
