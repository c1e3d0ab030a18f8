"""Change, wages and percentages."""

from __future__ import annotations

from reckoner.tasks.templates.story import Draw, Story, template


@template("change")
def one_kind_paid(d: Draw) -> Story:
    """Several things of one kind are paid with notes."""
    who, item = d.person(), d.item("baked")
    n, price, notes, note = d.number(3, 12), d.number(2, 9), d.number(2, 5), d.pick(10, 20)
    paid = d.step(f"How much does {who} pay with?", f"{who} pays with $[{note}*{notes}].")
    cost = d.step(f"How much do the {item} cost?", f"The {item} cost $[{n}*{price}].")
    d.step(f"How much change does {who} get?", f"{who.He} gets $[{paid}-{cost}] back.")
    return d.ask(
        f"{who} buys {n} {item} for ${price} each and pays with {notes} notes of ${note}. How much change does {who.he} get?",
        f"One of the {item} costs ${price}. {who} takes {n} and hands over {notes} ${note} notes. How many dollars does {who.he} get back?",
        f"With {notes} notes of ${note} in {who.his} hand, {who} pays for {n} {item} at ${price} each. What is {who.his} change in dollars?",
    )


@template("change")
def two_kinds_paid(d: Draw) -> Story:
    """Two kinds of things and one note."""
    who, (x, y), bill = d.person(), d.items("school", 2), d.pick(50, 100)
    a, p, b, q = d.number(2, 9), d.number(2, 9), d.number(2, 9), d.number(2, 9)
    first = d.step(f"How much do the {x} cost?", f"The {x} cost $[{a}*{p}].")
    second = d.step(f"How much do the {y} cost?", f"The {y} cost $[{b}*{q}].")
    total = d.step(f"How much does {who} spend?", f"{who} spends $[{first}+{second}].")
    d.step("How much money is left?", f"{who.He} has $[{bill}-{total}] left.")
    extra = d.aside(f"The shop is {d.number(2, 9)} miles away.", f"{who} is {d.number(8, 15)} years old.")
    return d.ask(
        f"{who} has ${bill}.{extra} {who.He} buys {a} {x} for ${p} each and {b} {y} for ${q} each. How much money does {who.he} have left?",
        f"{x.a.capitalize()} costs ${p} and {y.a} costs ${q}.{extra} {who} buys {a} {x} and {b} {y} with a ${bill} note. How much change does {who.he} get?",
        f"{who} buys {a} {x} at ${p} each and {b} {y} at ${q} each.{extra} How many dollars of ${bill} are left after that?",
    )


@template("change")
def shared_present(d: Draw) -> Story:
    """Friends share the cost of two presents equally."""
    who, friends = d.person(), d.number(3, 9)
    part = d.number(5, 30)
    a = d.number(10, part * friends - 6)
    back = d.number(2, 9)
    b = part * friends - a
    total = d.step("How much do the presents cost?", f"The presents cost $[{a}+{b}].")
    each = d.step("How much is one part?", f"Each of them pays $[{total}/{friends}].")
    d.step(f"How much does {who} keep?", f"{who} keeps $[{each + back}-{each}].")
    return d.ask(
        f"{friends} friends buy a game for ${a} and a book for ${b} as presents and share the cost equally. {who} is one of them and has ${each + back}. How much money does {who.he} keep?",
        f"{who} has ${each + back}. Together with others {who.he} gives presents for ${a} and ${b}. All {friends} of them pay the same. How many dollars does {who} have left?",
        f"The cost of two presents, ${a} and ${b}, is split equally among {friends} people. One of them, {who}, had ${each + back} before. How much does {who.he} have after paying?",
    )


@template("change")
def coupon_and_fee(d: Draw) -> Story:
    """A coupon lowers the bill, a delivery fee raises it."""
    who, item = d.person(), d.item("clothes")
    n, price, coupon, fee = d.number(2, 8), d.number(10, 30), d.number(5, 20), d.number(3, 12)
    cost = d.step(f"How much do the {item} cost?", f"The {item} cost $[{price}*{n}].")
    less = d.step("How much is it with the coupon?", f"With the coupon it is $[{cost}-{coupon}].")
    total = d.step("How much is it with delivery?", f"With delivery it is $[{less}+{fee}].")
    if d.below(2):
        bill = d.pick(100, 200, 300)
        d.step(f"How much is left of ${bill}?", f"{who} will have $[{bill}-{total}] left.")
        ask = f"{who} has ${bill}. How much will be left?"
    else:
        ask = f"How much does {who} pay in all?"
    return d.ask(
        f"{who} orders {n} {item} at ${price} each. A coupon takes off ${coupon}, and delivery costs ${fee}. {ask}",
        f"Delivery of an order costs ${fee}. {who} orders {n} {item} for ${price} each and has a coupon for ${coupon} off. {ask}",
        f"{item.a.capitalize()} costs ${price}. {who} wants {n} of them, uses a coupon for ${coupon} off and pays ${fee} for delivery. {ask}",
    )


@template("change")
def how_many_affordable(d: Draw) -> Story:
    """Some money is kept back; the rest buys how many?"""
    who, item = d.person(), d.item("toy")
    price, n, keep, bus = d.number(3, 9), d.number(4, 15), d.number(5, 30), d.number(2, 9)
    have = price * n + keep + bus
    first = d.step("How much is left after the bus?", f"After the bus {who} has $[{have}-{bus}].")
    spend = d.step(f"How much can {who} spend?", f"{who.He} can spend $[{first}-{keep}].")
    d.step(f"How many {item} can {who} buy?", f"{who.He} can buy [{spend}/{price}] {item}.")
    return d.ask(
        f"{who} has ${have}. {who.He} pays ${bus} for the bus and wants to keep ${keep}. How many {item} for ${price} each can {who.he} buy?",
        f"{item.a.capitalize()} costs ${price}. {who} takes the bus for ${bus} with ${have} in {who.his} bag. How many {item} can {who.he} buy if ${keep} must be left?",
        f"Of {who.his} ${have}, {who} spends ${bus} on the bus, keeps ${keep} and buys {item} with the rest. They are ${price} each. How many {item} does {who.he} get?",
    )


@template("change")
def family_tickets(d: Draw) -> Story:
    """Tickets for adults and children, paid from an amount."""
    place, adults, kids = d.pick("zoo", "circus", "museum", "pool"), d.number(2, 5), d.number(2, 8)
    p, less = d.number(9, 20), d.number(2, 7)
    bill = d.pick(100, 150, 200)
    child = d.step("How much is a ticket for a child?", f"A child pays $[{p}-{less}].")
    a = d.step("How much do the adults pay?", f"The adults pay $[{p}*{adults}].")
    b = d.step("How much do the children pay?", f"The children pay $[{child}*{kids}].")
    total = d.step("How much do all of them pay?", f"All of them pay $[{a}+{b}].")
    ask = "How much do all of them pay?"
    if d.below(2):
        d.step("How much is left?", f"$[{bill}-{total}] is left.")
        ask = f"They bring ${bill}. How much is left after that?"
    return d.ask(
        f"At the {place} an adult pays ${p}, and a child pays ${less} less. A family goes in with {adults} adults and {kids} children. {ask}",
        f"A ticket for the {place} costs ${p}. Children get theirs ${less} cheaper. {adults} adults and {kids} children buy tickets. {ask}",
        f"{kids} children and {adults} adults visit the {place}. Adults pay ${p} each and children ${less} less than adults. {ask}",
    )


@template("wages")
def two_jobs(d: Draw) -> Story:
    """Hourly pay from two jobs."""
    who, (x, y) = d.person(), d.pick(("bakery", "library"), ("cafe", "zoo"), ("farm", "garage"))
    p, a, q, b = d.number(6, 15), d.number(3, 9), d.number(6, 15), d.number(3, 9)
    first = d.step(f"How much does {who} earn at the {x}?", f"At the {x} {who.he} earns $[{p}*{a}].")
    second = d.step(f"How much does {who} earn at the {y}?", f"At the {y} {who.he} earns $[{q}*{b}].")
    if d.below(2):
        d.step(f"How much does {who} earn in all?", f"In all {who.he} earns $[{first}+{second}].")
        ask = f"How much does {who} earn in all?"
    else:
        d.step("What is the difference?", f"The difference is $[{max(first, second)}-{min(first, second)}].")
        ask = "By how many dollars do the two payments differ?"
    extra = d.aside(
        f"{who} started there {d.number(2, 9)} months ago.", f"{who} is {d.number(18, 40)} years old."
    )
    return d.ask(
        f"{who} works {a} hours at a {x} for ${p} an hour and {b} hours at a {y} for ${q} an hour.{extra} {ask}",
        f"A {x} pays {who} ${p} an hour and a {y} pays ${q} an hour. {who.He} works {a} hours in the first job and {b} in the second.{extra} {ask}",
        f"In a week {who} has {a} hours of work at a {x}, paid ${p} each, and {b} hours at a {y}, paid ${q} each.{extra} {ask}",
    )


@template("wages")
def overtime(d: Draw) -> Story:
    """Hours above a limit are paid more."""
    who, rate, limit, extra = d.person(), d.number(8, 20), d.pick(8, 10, 20, 30), d.number(2, 9)
    bonus = d.number(2, 6)
    more = d.step(
        f"How many extra hours does {who} work?", f"{who} works [{limit + extra}-{limit}] extra hours."
    )
    high = d.step("How much is an extra hour?", f"An extra hour is paid $[{rate}+{bonus}].")
    base = d.step(
        f"How much does {who} get for {limit} hours?", f"For {limit} hours {who.he} gets $[{rate}*{limit}]."
    )
    over = d.step("How much are the extra hours?", f"The extra hours bring $[{high}*{more}].")
    d.step(f"How much does {who} earn?", f"{who.He} earns $[{base}+{over}].")
    return d.ask(
        f"{who} gets ${rate} an hour for the first {limit} hours and ${bonus} more for each hour after that. How much does {who.he} earn in {limit + extra} hours?",
        f"The pay is ${rate} an hour. Hours after the first {limit} are paid ${bonus} more each. What does {who} get for {limit + extra} hours of work?",
        f"{who} works {limit + extra} hours. {limit} of them are paid at ${rate}, and each of the others at ${bonus} more. How many dollars does {who.he} earn?",
    )


@template("wages")
def earn_and_spend(d: Draw) -> Story:
    """Pay for a week minus what is spent."""
    who, rate, hours, days = d.person(), d.pick(8, 9, 10, 11, 12, 15, 20), d.number(3, 8), d.number(3, 6)
    food, rent = d.number(20, 60, 5), d.number(40, 90, 10)
    week = d.step(f"How many hours does {who} work?", f"{who} works [{hours}*{days}] hours.")
    pay = d.step(f"How much does {who} earn?", f"{who.He} earns $[{week}*{rate}].")
    fed = d.step("How much is left after the food?", f"After the food $[{pay}-{food}] is left.")
    d.step("How much is left after the rent?", f"After the rent $[{fed}-{rent}] is left.")
    return d.ask(
        f"{who} works {hours} hours a day on {days} days a week for ${rate} an hour. {who.He} spends ${food} on food and ${rent} on rent. How much is left each week?",
        f"Each week {who} pays ${rent} in rent and ${food} for food. {who.He} earns ${rate} an hour and works {hours} hours on each of {days} days. How much can {who.he} save a week?",
        f"For ${rate} an hour, {who} works {days} days of {hours} hours each. How many dollars remain when ${food} goes for food and ${rent} for rent?",
    )


@template("wages")
def pay_per_piece(d: Draw) -> Story:
    """A fixed amount a day plus an amount for each sale."""
    who, item = d.person(), d.item("clothes")
    fixed, per, sold, days = d.number(20, 60), d.number(2, 9), d.number(5, 15), d.number(2, 6)
    bonus = d.step("How much are the sales of a day?", f"The sales of a day bring $[{sold}*{per}].")
    day = d.step(f"How much does {who} earn a day?", f"{who} earns $[{fixed}+{bonus}] a day.")
    d.step(f"How much does {who} earn in {days} days?", f"In {days} days {who.he} earns $[{day}*{days}].")
    return d.ask(
        f"{who} gets ${fixed} a day and ${per} for each of the {item} {who.he} sells. {who.He} sells {sold} every day. How much does {who.he} earn in {days} days?",
        f"A shop pays {who} ${per} for each sale and ${fixed} a day. If {who.he} sells {sold} {item} each day, how many dollars does {who.he} earn in {days} days?",
        f"In {days} days {who} sells {sold} {item} a day. {who.His} pay is ${fixed} a day plus ${per} for every one sold. How much money is that in all?",
    )


@template("wages")
def lawns_for_bike(d: Draw) -> Story:
    """How many jobs are still needed for a goal."""
    who, job = d.person(), d.pick("mowing a lawn", "walking a dog", "washing a car")
    pay, done, more, gift = d.number(4, 12), d.number(2, 9), d.number(2, 12), d.number(10, 50)
    price = pay * (done + more) + gift
    earned = d.step(f"How much has {who} earned?", f"{who} has earned $[{pay}*{done}].")
    have = d.step(f"How much does {who} have?", f"With the gift {who.he} has $[{earned}+{gift}].")
    left = d.step(f"How much does {who} need?", f"{who.He} still needs $[{price}-{have}].")
    d.step("How many more times is that?", f"That is [{left}/{pay}] more times.")
    return d.ask(
        f"{who} earns ${pay} for {job} and has done it {done} times. {who.His} aunt gave {who.him} ${gift}. How many more times must {who.he} do it to buy a bike for ${price}?",
        f"A bike costs ${price}. {who} got ${gift} as a gift and gets ${pay} each time for {job}. After {done} times, how many more times are needed?",
        f"For {job}, {who} gets ${pay}. {who.He} did it {done} times and also was given ${gift}. How many times more until {who.he} has ${price}?",
    )


@template("wages")
def lemonade_stand(d: Draw) -> Story:
    """Cups sold on two days, minus the cost, shared by two."""
    (a, b), price, x, y = d.people(2), d.number(2, 5), d.number(8, 30), d.number(8, 30)
    cost = d.number(5, 30)
    cups = d.step("How many cups are sold?", f"They sell [{x}+{y}] cups.")
    money = d.step("How much money is that?", f"They take in $[{cups}*{price}].")
    gain = d.step("How much is left after the cost?", f"After the cost $[{money}-{cost}] is left.")
    d.step("How much does each get?", f"Each gets $[{gain}/2].")
    return d.ask(
        f"{a} and {b} sell lemonade for ${price} a cup: {x} cups on Saturday and {y} on Sunday. They paid ${cost} for lemons and share the rest equally. How much does each get?",
        f"{x} cups of lemonade are sold on Saturday and {y} on Sunday, each for ${price}. The lemons cost ${cost}. {a} and {b} split the profit. How many dollars does {a} get?",
        f"After paying ${cost} for lemons, {a} and {b} share their lemonade money equally. They sold {x} and then {y} cups at ${price} each. What does {b} get?",
    )


@template("percentages")
def discount(d: Draw) -> Story:
    """A percentage off the price, then several pieces."""
    who, item, p = d.person(), d.item("clothes"), d.pick(10, 20, 25, 50)
    price, n = d.number(20, 100, 100 // p if p > 10 else 10), d.number(2, 6)
    off = d.step("How much is taken off?", f"The sale takes off $[{price}*{p}/100].")
    new = d.step("What is the new price?", f"The new price is $[{price}-{off}].")
    d.step(f"How much do {n} {item} cost?", f"{n} {item} cost $[{new}*{n}].")
    return d.ask(
        f"{item.a.capitalize()} costs ${price}. In a sale everything is {p}% cheaper. How much does {who} pay for {n} {item}?",
        f"{who} buys {n} {item} with {p}% off. Before the sale each cost ${price}. How many dollars does {who.he} pay?",
        f"The price of {item.a} was ${price} and is lowered by {p}%. What do {n} of them cost now?",
    )


@template("percentages")
def percent_rest(d: Draw) -> Story:
    """A percentage of a group, and the others minus some."""
    place, total, p = (
        d.pick("school", "club", "camp"),
        d.number(40, 300, 20),
        d.pick(10, 20, 25, 30, 40, 60, 75),
    )
    away = d.number(3, 20)
    part = d.step("How many come by bus?", f"[{total}*{p}/100] children come by bus.")
    rest = d.step("How many do not come by bus?", f"[{total}-{part}] children do not.")
    d.step("How many walk?", f"[{rest}-{away}] children walk.")
    return d.ask(
        f"A {place} has {total} children. {p}% of them come by bus, {away} come by car and the others walk. How many children walk?",
        f"Of {total} children at a {place}, {away} come by car and {p}% by bus. The rest walk. How many is that?",
        f"{p}% of the {total} children of a {place} take the bus. All others walk, except {away} who come by car. How many children walk?",
    )


@template("percentages")
def dinner_tip(d: Draw) -> Story:
    """Meals and drinks with a tip."""
    who, n, p = d.person(), d.number(2, 6), d.pick(10, 20, 25)
    meal, drink = d.number(8, 20), d.number(2, 6)
    food = d.step("How much do the meals cost?", f"The meals cost $[{meal}*{n}].")
    drinks = d.step("How much do the drinks cost?", f"The drinks cost $[{drink}*{n}].")
    bill = d.step("How much is the bill?", f"The bill is $[{food}+{drinks}].")
    tip = d.step("How much is the tip?", f"The tip is $[{bill}*{p}/100].")
    d.step(f"How much does {who} pay?", f"{who} pays $[{bill}+{tip}].")
    return d.ask(
        f"{who} pays for {n} meals at ${meal} each and {n} drinks at ${drink} each, and adds a tip of {p}%. How much does {who.he} pay?",
        f"A meal is ${meal} and a drink ${drink}. {who} orders {n} of both and leaves a {p}% tip. How many dollars is that in all?",
        f"With a tip of {p}%, how much does {who} pay for {n} drinks at ${drink} each and {n} meals at ${meal} each?",
    )


@template("percentages")
def rent_rise(d: Draw) -> Story:
    """An amount grows by a percentage; the cost of some months."""
    who, p, rent = d.person(), d.pick(10, 20, 50), d.number(100, 900, 100)
    months, thing = d.number(2, 5), d.pick("rent", "salary", "bill")
    rise = d.step("By how much does it rise?", f"It rises by $[{rent}*{p}/100] a month.")
    new = d.step(f"What is the new {thing}?", f"The new {thing} is $[{rent}+{rise}] a month.")
    d.step(f"How much is that in {months} months?", f"In {months} months that is $[{new}*{months}].")
    return d.ask(
        f"{who} has a monthly {thing} of ${rent}. Now it rises by {p}%. How much will it be for {months} months at the new rate?",
        f"{who} has a {thing} of ${rent} a month, which now goes up {p}%. How many dollars is that in {months} months after the change?",
        f"{who} had a {thing} of ${rent} a month until it rose by {p}%. How much does it come to in {months} months now?",
    )


@template("percentages")
def test_score(d: Draw) -> Story:
    """A share of the questions is right, each worth points, wrong ones cost points."""
    who, n, p = d.person(), d.pick(20, 40, 50, 60, 80), d.pick(50, 60, 70, 75, 80, 90)
    good, bad = d.number(3, 6), d.number(1, 2)
    right = d.step("How many answers are right?", f"{who} has [{n}*{p}/100] right answers.")
    wrong = d.step("How many answers are wrong?", f"{who.He} has [{n}-{right}] wrong answers.")
    plus = d.step(
        "How many points do the right answers give?", f"The right answers give [{right}*{good}] points."
    )
    minus = d.step("How many points are lost?", f"The wrong answers cost [{wrong}*{bad}] points.")
    d.step(f"How many points does {who} get?", f"{who.He} gets [{plus}-{minus}] points.")
    lost = "1 point is" if bad == 1 else f"{bad} points are"
    return d.ask(
        f"A test has {n} questions. A right answer gives {good} points, and {lost} taken off for a wrong one. {who} has {p}% right and the rest wrong. How many points does {who.he} get?",
        f"{who} answers {p}% of {n} questions right and the others wrong. Each right answer is worth {good} points and for each wrong one {lost} lost. What is {who.his} score?",
        f"For a right answer there are {good} points; for a wrong one {lost} lost. Out of {n} answers by {who}, {p}% are right. How many points is that?",
    )


@template("percentages")
def two_percentages(d: Draw) -> Story:
    """A percentage is spent, then a percentage of what is left."""
    who, money, p, q = d.person(), d.number(40, 400, 20), d.pick(10, 20, 25, 40, 50), d.pick(10, 20, 25, 50)
    x, y = d.pick(("food", "a coat"), ("books", "a game"), ("shoes", "a gift"))
    first = d.step(f"How much is spent on {x}?", f"{who} spends $[{money}*{p}/100] on {x}.")
    rest = d.step("How much is left then?", f"Then $[{money}-{first}] is left.")
    second = d.step(f"How much is spent on {y}?", f"{who.He} spends $[{rest}*{q}/100] on {y}.")
    d.step("How much is left in the end?", f"In the end $[{rest}-{second}] is left.")
    return d.ask(
        f"{who} has ${money}. {who.He} spends {p}% of it on {x} and {q}% of the rest on {y}. How much money does {who.he} have left?",
        f"After {p}% of {who.his} ${money} has gone for {x}, {who} pays {q}% of what is left for {y}. How many dollars remain?",
        f"{who} starts with ${money}. First {p}% of the money is spent on {x}, then {q}% of the remaining money on {y}. How much is left?",
    )
