"""Sentences for any situation, such as asides in letters, and fillers and closings in replies.

Fields in braces are filled in from a `world.Letter`.
"""

from demo import shop

OPENINGS = ("Hello!", "Good morning!", f"Dear {shop.SHOP},", "Hello Ada,", "Good evening!")
ASIDES = {  # by situation, or by mood for other situations
    "trouble": (
        "It was for my mother's birthday.",
        "My son will not sleep without it.",
        "We have been eating by candle, and not for romance.",
        "I have read the same page by torch all week.",
        "My book club meets on {soon}.",
        "The hall is so dark that I said good morning to the coats.",
        "The cat has moved into the box, and I dare not ask for it back.",
        "My neighbours think that we have left the country.",
        "I had told everyone about it.",
        "My grandfather has begun to knit in the dark.",
        "I have hit the same toe twice.",
        "We move house on {soon}.",
        "My daughter drew it a welcome card.",
        "I had cleared a place for it on the piano.",
        "It is the only thing that I bought for myself this year.",
        "I am not angry, only sad.",
        "I am rather cross.",
        "I have been a customer since I was nine.",
        "This is the second time.",
        "Please help.",
    ),
    "praise": (
        "My neighbour has asked twice where I got it.",
        "The dog barks at it, but with love.",
        "My son says good night to it.",
        "I now read until two, so I blame you.",
        "Even my soup looks better.",
        "My sister wants one, and she likes nothing.",
        "I put it in the window for the whole street.",
        "The box was so well packed that I kept the string.",
        "Please tell whoever made it.",
        "I have given it a name.",
    ),
    "question": (
        "There is no hurry.",
        "It is a little urgent.",
        "Thank you in advance.",
        "I hope that you are all well.",
        "I asked the dog, but he only sighed.",
        "Sorry to bother you on a {day}.",
        "My wife asks every day, and I have run out of answers.",
        "Greetings to the cat.",
        "I hope that this is not a silly question.",
    ),
    "bulb": (
        "I am not handy.",
        "I would rather ask before I pull.",
        "I have a screwdriver and some courage.",
        "My husband says that he knows, but he does not.",
        "The cat sleeps on the manual.",
        "My late uncle did these things.",
    ),
    "clean": (
        "I would rather ask before I scrub.",
        "My mother-in-law comes on {soon}.",
        "The cat sleeps on the manual.",
        "My husband says vinegar, and I say no.",
        "I have a sponge and some courage.",
    ),
    "refund": (
        "It is not you, it is me.",
        "I have tried it in every room.",
        "We both tried, the lamp and I.",
        "I am not angry, only sad.",
        "I still have the box and the string.",
        "Please be kind about it.",
    ),
}
REPEATS = (  # second letters, after an unhelpful reply
    "That was on {day}. I am still waiting to hear about my {item}.",
    "You wrote that before. What happens with my {item} now?",
    "I asked about my {item}, and that is no answer.",
    "Thank you, but what about my {item}?",
)

PLAIN = {  # polite but unspecific
    "trouble": ("I am sorry for the trouble.", "We are sorry about this.", "Sorry about that."),
    "praise": ("Thank you for your letter.", "Thank you.", "That is nice."),
    "question": ("Thank you for your letter.", "We got your message.", "Thank you."),
}
FLAT = (
    "We got your letter.",
    "Your letter has been read.",
    "This is about your order.",
    "You wrote to us about a lamp.",
)
VAGUE = (
    "We will look into it at some point.",
    "Somebody will see to it.",
    "We will see what can be done.",
    "It will sort itself out, as a rule.",
    "Please wait.",
    "You may hear from us.",
)
UNTIMED = {  # a step without a date
    "trouble": ("We will send a new one.", "We will mend it.", "I will ask the others about it."),
    "praise": ("I will tell June.", "I will keep your letter."),
    "question": ("I will see to it.", "I will ask June.", "I will send you a letter about it."),
}
FALSE = (  # promises that the shop cannot keep
    "Otis will be at your door within the hour, by helicopter.",
    "You will get free lamps for life.",
    "I promise that no {item} will ever break again.",
    "A new {item} will be at your door tonight, guaranteed.",
    "We will pay you double your money today.",
    "We guarantee that nothing will ever go wrong again.",
    "Ten free lamps are on their way to you.",
    "We guarantee sunshine in every room by tomorrow.",
)
SHOUTS = (
    "PLEASE READ THE MANUAL!!!",
    "THIS IS NOT OUR FAULT!!!",
    "WE ARE SORRY!!!",
    "GOOD NEWS!!!",
    "WE ARE VERY BUSY!!!",
)
RAMBLES = (
    "Ada Moth started this shop in 1974 with one lamp and a bicycle.",
    "Brass is made of copper and zinc.",
    "We also sell lanterns, and many people like lanterns.",
    "The shop has two windows and a cat called Watt.",
    "Light is very fast, as you may know.",
    "Our lamps are made by hand from brass, glass and paper.",
    "It rained here this morning.",
    "The first lamp was a stone with some fat in it.",
    "Watt the cat likes the warm end of the bench.",
    "In winter it gets dark early.",
)
CLOSES = (
    "Write to me if anything is unclear.",
    "Thank you for your patience.",
    "Thank you for writing to us.",
    "I wish you a bright evening.",
    "Please write again if you need us.",
    "We are here if you need anything.",
)
COLD_CLOSES = (
    "Do not write again.",
    "That is all.",
    "Next time, read the manual.",
    "We are busy.",
    "This letter needs no answer.",
)
