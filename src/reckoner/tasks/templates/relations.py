"""Ages, rates, and amounts below zero."""

from __future__ import annotations

from reckoner.tasks.templates.story import Draw, Story, template


@template("ages")
def older_later(d: Draw) -> Story:
    """An age by comparison, then some years on."""
    (a, b), n, k, years = d.people(2), d.number(5, 15), d.number(2, 5), d.number(3, 12)
    more = d.number(2, 9)
    phrase, op = d.pick(
        (f"{k} times as old as", f"*{k}"), ("twice as old as", "*2"), (f"{more} years older than", f"+{more}")
    )
    now = d.step(f"How old is {b} now?", f"{b} is now [{n}{op}] years old.")
    d.step(
        f"How old will {b} be in {years} years?",
        f"In {years} years {b.he} will be [{now}+{years}] years old.",
    )
    return d.ask(
        f"{a} is {n} years old and {b} is {phrase} {a}. How old will {b} be in {years} years?",
        f"{b} is {phrase} {a}, who is {n} years old. What will be the age of {b} in {years} years?",
        f"In {years} years, how old will {b} be, if {b} is {phrase} {a} now and {a} is {n}?",
    )


@template("ages")
def sum_of_ages(d: Draw) -> Story:
    """The sum of two ages now or after some years."""
    (a, b), n, more, years = d.people(2), d.number(6, 30), d.number(2, 12), d.number(2, 9)
    word, sign = d.pick(("older", "+"), ("younger", "-"))
    other = d.step(f"How old is {b}?", f"{b} is [{n}{sign}{more}] years old.")
    total = d.step("What is the sum of their ages now?", f"Now the sum is [{n}+{other}] years.")
    grow = d.step("How many years are added?", f"Both together grow [{years}*2] years older.")
    d.step("What will be the sum?", f"The sum will be [{total}+{grow}] years.")
    return d.ask(
        f"{a} is {n} years old and {b} is {more} years {word}. What will be the sum of their ages in {years} years?",
        f"{b} is {more} years {word} than {a}, who is {n}. Add their ages in {years} years. What is the result?",
        f"In {years} years the ages of {a} and {b} are added. Now {a} is {n} and {b} is {more} years {word} than {a}. What is the sum then?",
    )


@template("ages")
def years_ago(d: Draw) -> Story:
    """A relation that held some years ago gives an age of today."""
    (a, b), ago, then, k = d.people(2), d.number(2, 9), d.number(3, 10), d.number(2, 5)
    now = then + ago
    past = d.step(f"How old was {a} then?", f"{ago} years ago {a} was [{now}-{ago}] years old.")
    other = d.step(f"How old was {b} then?", f"{b} was then [{past}*{k}] years old.")
    d.step(f"How old is {b} now?", f"{b} is now [{other}+{ago}] years old.")
    times = "twice" if k == 2 else f"{k} times"
    return d.ask(
        f"{ago} years ago {b} was {times} as old as {a}. {a} is {now} years old now. How old is {b} now?",
        f"{a} is {now} years old. {ago} years ago, {b} was {times} as old as {a} was. What is the age of {b} today?",
        f"How old is {b} today, if {b} was {times} as old as {a} {ago} years ago and {a} is {now} now?",
    )


@template("ages")
def parent_and_child(d: Draw) -> Story:
    """The age of a parent when the child reaches an age."""
    (a, b), birth, now, later = d.people(2), d.number(22, 39), d.number(3, 15), d.number(18, 40)
    if d.below(2):
        wait = d.step(
            f"In how many years will {b} be {later}?", f"{b} will be {later} in [{later}-{now}] years."
        )
        d.step(f"How old will {a} be then?", f"{a} will then be [{birth + now}+{wait}] years old.")
        ask = f"How old will {a} be when {b} is {later}?"
    else:
        gap = d.step(
            f"How old was {a} when {b} was born?", f"{a} was [{birth + now}-{now}] when {b} was born."
        )
        d.step(f"How old was {a} when {b} was 2?", f"When {b} was 2, {a} was [{gap}+2] years old.")
        ask = f"How old was {a} when {b} was 2?"
    extra = d.aside(
        f"They have {d.number(2, 5)} cats.", f"They live at number {d.number(41, 98)} of their street."
    )
    return d.ask(
        f"{a} is {birth + now} years old and has a child, {b}, who is {now}.{extra} {ask}",
        f"{b} is {now} years old.{extra} {b} is the child of {a}, who is {birth + now}. {ask}",
        f"The ages of {a} and {a.his} child {b} are {birth + now} and {now}.{extra} {ask}",
    )


@template("ages")
def three_ages(d: Draw) -> Story:
    """A chain of three ages, asked for their sum or the gap between first and last."""
    (a, b, c), n, k, more = d.people(3), d.number(4, 14), d.number(2, 4), d.number(2, 9)
    second = d.step(f"How old is {b}?", f"{b} is [{n}*{k}] years old.")
    third = d.step(f"How old is {c}?", f"{c} is [{second}-{more}] years old.")
    if d.below(2):
        d.step("What is the sum of the ages?", f"The sum is [{n}+{second}+{third}] years.")
        ask = "How old are all three together?"
    else:
        d.step(f"How much older is {c} than {a}?", f"{c} is [{third}-{n}] years older than {a}.")
        ask = f"How many years older than {a} is {c}?"
    times = "twice" if k == 2 else f"{k} times"
    return d.ask(
        f"{a} is {n} years old. {b} is {times} as old as {a}, and {c} is {more} years younger than {b}. {ask}",
        f"{c} is {more} years younger than {b}. {b} is {times} as old as {a}, who is {n}. {ask}",
        f"The age of {a} is {n}. {b} is {times} as old, but {c} is {more} years younger than {b}. {ask}",
    )


@template("ages")
def age_from_sum(d: Draw) -> Story:
    """The sum and the difference of two ages give the younger or older one."""
    (a, b), young, gap = d.people(2), d.number(4, 30), d.number(2, 20)
    total = young * 2 + gap
    double = d.step("What is twice the younger age?", f"Twice the age of {b} is [{total}-{gap}] years.")
    age = d.step(f"How old is {b}?", f"{b} is [{double}/2] years old.")
    ask = f"How old is {b}?"
    if d.below(2):
        d.step(f"How old is {a}?", f"{a} is [{age}+{gap}] years old.")
        ask = f"How old is {a}?"
    return d.ask(
        f"{a} is {gap} years older than {b}. Together they are {total} years old. {ask}",
        f"The ages of {a} and {b} add up to {total}. {a} is {gap} years older than {b}. {ask}",
        f"Together {a} and {b} are {total} years old, and {b} is {gap} years younger than {a}. {ask}",
    )


@template("rates")
def two_speeds(d: Draw) -> Story:
    """Two parts of a trip at different speeds."""
    who, p, a, q, b = d.person(), d.number(5, 60, 5), d.number(2, 6), d.number(5, 60, 5), d.number(2, 6)
    how = d.pick("drives", "rides", "travels")
    d.require(p != q)
    one = d.step("How many miles is the first part?", f"The first part is [{p}*{a}] miles.")
    two = d.step("How many miles is the second part?", f"The second part is [{q}*{b}] miles.")
    total = d.step("How many miles is that in all?", f"In all that is [{one}+{two}] miles.")
    ask = "How many miles is that in all?"
    if d.below(2):
        more = d.number(10, 90)
        d.step("How long is the whole way?", f"The whole way is [{total}+{more}] miles.")
        ask = f"Then {more} miles are left. How many miles is the whole way?"
    return d.ask(
        f"{who} {how} {a} hours at {p} miles an hour and then {b} hours at {q} miles an hour. {ask}",
        f"For {a} hours {who} {how} at {p} miles per hour. For the next {b} hours the speed is {q} miles per hour. {ask}",
        f"At {p} miles an hour {who} {how} for {a} hours, and at {q} miles an hour for {b} hours more. {ask}",
    )


@template("rates")
def machine_output(d: Draw) -> Story:
    """Things a minute, minutes an hour, some hours or machines."""
    item, rate, minutes, machines = d.item("toy"), d.number(2, 9), d.number(10, 40, 5), d.number(2, 5)
    broken = d.number(5, 40)
    one = d.step(f"How many {item} does one machine make?", f"One machine makes [{minutes}*{rate}] {item}.")
    total = d.step(f"How many {item} do all machines make?", f"All machines make [{one}*{machines}] {item}.")
    d.step("How many are good?", f"[{total}-{broken}] {item} are good.")
    extra = d.aside(f"A machine is {d.number(2, 9)} years old.", f"{d.number(3, 9)} people work there.")
    return d.ask(
        f"A machine makes {rate} {item} a minute.{extra} {machines} such machines run for {minutes} minutes, and {broken} of the {item} are broken. How many are good?",
        f"{machines} machines each make {rate} {item} per minute.{extra} After {minutes} minutes {broken} {item} are thrown away. How many are kept?",
        f"For {minutes} minutes {machines} machines make {rate} {item} a minute each.{extra} If {broken} of all the {item} are bad, how many are good?",
    )


@template("rates")
def tank_with_leak(d: Draw) -> Story:
    """Water comes in and runs out; the time to fill or the level after a time."""
    into, out, minutes, start = d.number(8, 20), d.number(2, 7), d.number(3, 12), d.number(10, 60)
    net = d.step("How many gallons are added a minute?", f"Each minute [{into}-{out}] gallons are added.")
    if d.below(2):
        size = start + (into - out) * minutes
        need = d.step("How many gallons are missing?", f"[{size}-{start}] gallons are missing.")
        d.step("How many minutes does it take?", f"It takes [{need}/{net}] minutes.")
        more, ask = f" for {size} gallons", "After how many minutes is it full?"
    else:
        gain = d.step(
            f"How many gallons come in {minutes} minutes?",
            f"In {minutes} minutes that is [{net}*{minutes}] gallons.",
        )
        d.step("How many gallons are in the tank?", f"The tank then has [{start}+{gain}] gallons.")
        more, ask = "", f"How many gallons are in it after {minutes} minutes?"
    return d.ask(
        f"A tank{more} has {start} gallons of water in it. A pipe brings {into} gallons a minute, but {out} gallons a minute leak out. {ask}",
        f"Into a tank{more} flow {into} gallons a minute while {out} gallons a minute flow out. At first it has {start} gallons. {ask}",
        f"{start} gallons are in a tank{more}. Every minute it gains {into} gallons and loses {out} gallons. {ask}",
    )


@template("rates")
def price_by_scale(d: Draw) -> Story:
    """The price of some gives the price of others."""
    who, item, n, price, m = d.person(), d.item("fruit"), d.number(2, 9), d.number(2, 9), d.number(3, 15)
    d.require(n != m)
    one = d.step(f"How much does one of the {item} cost?", f"One costs $[{n * price}/{n}].")
    many = d.step(f"How much do {m} {item} cost?", f"{m} {item} cost $[{one}*{m}].")
    ask = f"How much do {m} {item} cost {who}?"
    if d.below(2):
        money = many + d.number(5, 40)
        d.step("How much is left?", f"{who} has $[{money}-{many}] left.")
        ask = f"{who} has ${money} and buys {m} {item}. How much is left?"
    return d.ask(
        f"At the market {n} {item} cost ${n * price}. {ask}",
        f"A shop sells {n} {item} for ${n * price}, and any other number at the same rate. {ask}",
        f"For ${n * price} one gets {n} {item}. {ask}",
    )


@template("rates")
def two_riders(d: Draw) -> Story:
    """Two people move in the same or opposite directions; their distance is asked."""
    (a, b), p, q, hours = d.people(2), d.number(11, 30), d.number(4, 10), d.number(2, 9)
    opposite = d.below(2)
    one = d.step(f"How far does {a} ride?", f"{a} rides [{p}*{hours}] miles.")
    two = d.step(f"How far does {b} ride?", f"{b} rides [{q}*{hours}] miles.")
    d.step("How far apart are they?", f"They are [{one}{'+' if opposite else '-'}{two}] miles apart.")
    way = "in opposite directions" if opposite else "in the same direction"
    return d.ask(
        f"{a} and {b} start at the same place and ride {way}, {a} at {p} and {b} at {q} miles an hour. How many miles apart are they after {hours} hours?",
        f"From one town {a} and {b} ride off {way}. {a} makes {p} miles an hour and {b} {q}. How far apart are they in {hours} hours?",
        f"{b} rides {q} miles an hour. {a} rides {p} miles an hour. They leave the same place {way}. What is the distance between them after {hours} hours, in miles?",
    )


@template("rates")
def typing_job(d: Draw) -> Story:
    """Work done at a rate by one, the rest at the rate of both."""
    (a, b), p, q, alone, both = d.people(2), d.number(2, 6), d.number(3, 6), d.number(2, 6), d.number(2, 9)
    pages = p * alone + (p + q) * both
    done = d.step(f"How many pages does {a} type alone?", f"Alone {a} types [{p}*{alone}] pages.")
    left = d.step("How many pages are left?", f"[{pages}-{done}] pages are left.")
    rate = d.step("How many pages an hour do both type?", f"Both type [{p}+{q}] pages an hour.")
    d.step("How many hours do both need?", f"Both need [{left}/{rate}] hours.")
    return d.ask(
        f"{a} types {p} pages an hour and {b} types {q}. {a} works alone for {alone} hours on {pages} pages, then both work. How many hours do they work together?",
        f"There are {pages} pages to type. {a} does {p} pages an hour, {b} does {q}. After {alone} hours of {a} alone, {b} helps. How many hours more does it take?",
        f"{b} joins {a} after {alone} hours of typing {pages} pages. {a} does {p} and {b} does {q} pages per hour. How long do both work, in hours?",
    )


@template("below zero")
def falling_temperature(d: Draw) -> Story:
    """The temperature falls by the hour and may end below zero."""
    start, fall, hours, rise = d.number(2, 15), d.number(2, 6), d.number(2, 8), d.number(2, 9)
    drop = d.step("By how many degrees does it fall?", f"It falls by [{fall}*{hours}] degrees.")
    night = d.step("What is the temperature then?", f"Then it is [{start}-{drop}] degrees.", least=-40)
    d.step("What is the temperature at noon?", f"At noon it is [{night}+{rise}] degrees.", least=-40)
    return d.ask(
        f"In the evening it is {start} degrees. It gets {fall} degrees colder every hour for {hours} hours. By noon it is {rise} degrees warmer again. What is the temperature at noon?",
        f"The temperature is {start} degrees, falls {fall} degrees an hour for {hours} hours, and then rises {rise} degrees until noon. How many degrees is it at noon?",
        f"For {hours} hours the temperature drops {fall} degrees an hour from {start} degrees. Then it goes up {rise} degrees by noon. What does the thermometer show?",
    )


@template("below zero")
def bank_account(d: Draw) -> Story:
    """An account that may go below zero."""
    who, have, n, fee, pay = (
        d.person(),
        d.number(10, 60, 5),
        d.number(2, 5),
        d.number(10, 30, 5),
        d.number(10, 60, 5),
    )
    bills = d.step("How much are the bills?", f"The bills are $[{fee}*{n}].")
    after = d.step(
        "How much is in the account then?", f"Then the account has [{have}-{bills}] dollars.", least=-300
    )
    d.step(
        "How much is in the account in the end?", f"In the end it has [{after}+{pay}] dollars.", least=-300
    )
    return d.ask(
        f"{who} has a bank account with ${have}. {who.He} pays {n} bills of ${fee} each and puts in ${pay}. How many dollars are in the account, which may be below zero?",
        f"{who} has ${have} in the bank. {n} bills of ${fee} are paid from it, then {who.he} adds ${pay}. What does the account show? A debt counts as negative.",
        f"From an account with ${have}, {n} bills of ${fee} each are taken. Later {who} pays in ${pay}. What is the balance? It is negative if there is a debt.",
    )


@template("below zero")
def elevator(d: Draw) -> Story:
    """An elevator goes up and down past the ground floor, which is 0."""
    who, start = d.person(), d.number(2, 9)
    floor, told = start, []
    for _ in range(d.number(2, 3)):
        n = d.number(2, 9)
        word, sign = d.pick(("down", "-"), ("down", "-"), ("up", "+"))
        floor = d.step(
            f"Where is the elevator after going {word} {n}?",
            f"Going {word} it reaches floor [{floor}{sign}{n}].",
            least=-12,
        )
        told.append(f"{word} {n}")
    moves = ", then ".join(told)
    return d.ask(
        f"{who} takes an elevator on floor {start}. The ground floor is 0 and the floors below are negative. It goes {moves} floors. On which floor is {who} now?",
        f"In a tower the ground floor is 0, with negative floors under it. An elevator with {who} starts on floor {start} and goes {moves} floors. Which floor is that?",
        f"Starting on floor {start}, {who} rides {moves} floors. Floors under the ground floor, which is 0, are negative. What floor does {who.he} reach?",
    )


@template("below zero")
def quiz_points(d: Draw) -> Story:
    """Right answers add points, wrong ones take points away."""
    (a, b), good, bad = d.people(2), d.number(2, 5), d.number(2, 6)
    right, wrong = d.number(2, 9), d.number(2, 9)
    plus = d.step(f"How many points does {a} win?", f"{a} wins [{right}*{good}] points.")
    minus = d.step(f"How many points does {a} lose?", f"{a.He} loses [{wrong}*{bad}] points.")
    d.step(f"How many points does {a} have?", f"{a.He} has [{plus}-{minus}] points.", least=-60)
    extra = d.aside(f"{b} has {d.number(2, 30)} points.", f"The quiz lasts {d.number(10, 50)} minutes.")
    return d.ask(
        f"In a quiz a right answer gives {good} points and a wrong one takes away {bad}. {a} has {right} right and {wrong} wrong answers.{extra} How many points is that? It may be negative.",
        f"{a} gives {wrong} wrong and {right} right answers in a quiz.{extra} Each right one is worth {good} points, each wrong one costs {bad}. What is the score of {a}, which may be below zero?",
        f"A quiz gives {good} points for a right answer and takes {bad} for a wrong one.{extra} With {right} right and {wrong} wrong answers, what is the score of {a}? It can be less than zero.",
    )
