"""Situations in which customers write to the shop, with sentences for letters, and for good and bad replies.

Fields in braces are filled in from a `world.Letter`, so that a reply mentions the same lamp, day, part and street
as the letter.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Situation:
    key: str
    mood: str  # "trouble", "praise" or "question"
    letters: tuple[str, ...]
    hears: tuple[str, ...]  # shows that the letter was read
    steps: tuple[str, ...]  # who does what, by when
    extras: tuple[str, ...]  # useful, and true
    blames: tuple[str, ...]  # never acceptable


SITUATIONS = (
    Situation(
        "late",
        "trouble",
        (
            "My {full} was due on {day} and has not come.",
            "I ordered {a_full} two weeks ago. Still no parcel.",
            "{day} came and went without my {full}.",
            "You told me that my {full} would be here by {day}. It is late.",
            "I have waited for my {full} for so long that the postman and I are now friends.",
            "No sign of my {full}. It should have come on {day}.",
        ),
        (
            "I am so sorry that your {item} is late.",
            "I am sorry that {day} came and went without your {item}.",
            "Waiting in the dark is no fun, and I am sorry that your {item} has kept you waiting.",
            "I am sorry that you are still waiting for the {item}.",
        ),
        (
            "I have asked the post today, and I will write to you by {soon} with what they say.",
            "I will post a second {item} tomorrow morning, and it will reach you by {soon}.",
            "Otis will trace the parcel today, and you will hear from me by {soon}.",
            "If it is not with you by {soon}, I will post a new {item} that same day.",
        ),
        (
            "Should two of them turn up, keep the second for a friend.",
            "You pay nothing for the second parcel.",
        ),
        ("You should have ordered sooner.", "Other people wait longer and do not complain."),
    ),
    Situation(
        "broken",
        "trouble",
        (
            "My {full} arrived with {damage}.",
            "I opened the box and found my {full} with {damage}.",
            "The {full} came today, but it has {damage}.",
            "Your parcel looked fine, but the {full} inside has {damage}.",
            "I was so happy, and then I saw that my {full} has {damage}.",
            "One {full} received, with {damage}. I did not order that part.",
        ),
        (
            "I am so sorry that your {item} came with {damage}.",
            "Oh no, {damage}! I am sorry that the {item} reached you like that.",
            "I am sorry that your {item} had such a rough journey.",
            "I am sorry, that is no way for {a_item} to arrive.",
        ),
        (
            "I will post a new {item} tomorrow morning, and you will have it by {soon}.",
            "I have set a new {item} aside for you, and Otis will post it tomorrow.",
            "A new {item} goes out to you tomorrow and will arrive within four days.",
            "I will send you a new {item} today, and it should be with you by {soon}.",
        ),
        (
            "Please keep the broken one, there is no need to send it back.",
            "If you would rather have your money back, just say so.",
        ),
        (
            "You should have opened the box with more care.",
            "It was fine when it left us, so this is your own fault.",
        ),
    ),
    Situation(
        "wrong",
        "trouble",
        (
            "I ordered {a_full} and unpacked {a_other}.",
            "There is {a_other} in the box. I ordered {a_full}.",
            "I asked for {a_full}, but you sent me {a_other}.",
            "This {other} is very nice, but I ordered {a_full}.",
            "Somewhere a stranger has my {full}, because I have got {a_other}.",
            "Instead of the {full} that I ordered, {a_other} came.",
        ),
        (
            "I am so sorry that {a_other} came in place of your {item}.",
            "I am sorry, you ordered {a_item} and we packed the wrong box.",
            "I am sorry for the mix-up with your {item}.",
            "I am sorry that we sent you the wrong lamp and kept your {item} here.",
        ),
        (
            "I will post your {item} tomorrow morning, and Otis will fetch the {other} on {soon}.",
            "Your {item} goes out tomorrow and will arrive within four days.",
            "I have packed the right {item} myself, and it will reach you by {soon}.",
            "I will send the {item} today, and you will have it by {soon}.",
        ),
        (
            "The {other} can go back in the same box, and we pay the post.",
            "Please leave the {other} in its box until then.",
        ),
        ("You should have written more clearly.", "Nobody else has complained about the {other}."),
    ),
    Situation(
        "refund",
        "trouble",
        (
            "The {full} is too bright for us. I would like my money back.",
            "Can I send back my {full} and have my money back?",
            "I want a refund for my {full}. It does not suit the room, or the dog.",
            "My {full} is smaller than I thought. Please refund me.",
            "I do not love my {full}. May I return it?",
            "My wife says that it is her or the {full}. I need a refund, I think.",
        ),
        (
            "I am sorry that the {item} is not right for you.",
            "I am sorry that you and the {item} did not become friends.",
            "Of course you can return the {item}, and I am sorry that it was not what you hoped.",
            "I am sorry that the {item} has let you down.",
        ),
        (
            "Otis will fetch the {item} on {soon}, and I will send your money back within five days.",
            "Post the {item} to us, and I will send your money back within five days.",
            "I will send you a label today, and your money will be back within five days.",
            "I have written the refund today, and the money will reach you by {soon}.",
        ),
        ("We pay the post.", "The old box is fine, even if a cat has slept in it."),
        (
            "You should have thought of that before.",
            "There is nothing wrong with the {item}, so this is your own fault.",
        ),
    ),
    Situation(
        "where",
        "question",
        (
            "Can you tell me where my {full} is? I ordered it on {day}.",
            "When will my {full} be here?",
            "Has my {full} left the shop yet?",
            "I ordered {a_full} on {day}. Is it on its way?",
            "Could you tell me which day my {full} will come? I want to be home.",
            "Where is my {full} now? I like to imagine its journey.",
        ),
        (
            "Thank you for asking about your {item}.",
            "I am glad that you asked about your {item}.",
            "I looked for your {item} at once, and I am happy to tell you where it is.",
            "Of course, I am happy to tell you about your {item}.",
        ),
        (
            "Your {item} left us this morning and will reach you by {soon}.",
            "Your {item} goes out tomorrow morning, and I will write to you when it does.",
            "Otis took the {item} to the post today, and it will be with you by {soon}.",
            "June will test your {item} today, and it will leave us tomorrow.",
        ),
        ("A parcel takes two to four days.", "The postman will ring twice."),
        ("You should have read the letter that we sent.", "We have no time for such questions."),
    ),
    Situation(
        "praise",
        "praise",
        (
            "The {full} came today and it is lovely.",
            "I just want to say that I love my {full}.",
            "Your {full} is the nicest thing in my house, and I include my husband.",
            "Thank you for the {full}! It is perfect.",
            "My {full} is on and I am smiling at it.",
            "I have had your {full} for a year, and I love it more each evening.",
        ),
        (
            "I am so glad that you love the {item}.",
            "Thank you, your letter about the {item} made us all smile.",
            "I am happy that the {item} has found such a good home.",
            "What a lovely letter, thank you for writing about your {item}.",
        ),
        (
            "I will read your letter to June today, because she made the {item}.",
            "I will pin your letter above the bench today, where June can see it.",
            "I will send you a card tomorrow with a drawing of the {item}.",
            "Otis will show your letter to the postman tomorrow, who likes good news.",
        ),
        (
            "A dry cloth once a month keeps it bright.",
            "June blushed, and she does not blush often.",
        ),
        (
            "You should have written this to somebody with more time.",
            "Please calm down, it is only a lamp.",
        ),
    ),
    Situation(
        "bulb",
        "question",
        (
            "How do I change the bulb in my {full}?",
            "The bulb of my {full} has gone. How do I get it out?",
            "Which way does the bulb of the {full} turn?",
            "I need to put a new bulb into my {full}. Is it hard?",
            "My {full} needs a new bulb, and I am afraid of it. How do I do it?",
            "Is there a trick to the bulb in the {full}?",
        ),
        (
            "Thank you for asking about the bulb of your {item}.",
            "I am glad that you asked first, because the {item} can be shy about its bulb.",
            "Good question, and the {item} makes it easy.",
            "Of course, I am happy to help with the bulb of your {item}.",
        ),
        (
            "Unplug the {item}, wait ten minutes until it is cool, and turn the bulb to the left.",
            "Pull the plug, wait ten minutes, and then turn the old bulb gently to the left.",
            "First unplug the {item}, then wait ten minutes, then turn the bulb to the left.",
            "Let the {item} cool for ten minutes with the plug out, and turn the bulb to the left.",
        ),
        ("Any small bulb from the corner shop will fit.", "The new one goes in to the right."),
        ("You should have read the manual.", "Everybody knows how to change a bulb."),
    ),
    Situation(
        "clean",
        "question",
        (
            "How do I clean the shade of my {full}?",
            "There is jam on my {full}. How do I get it off?",
            "What is the best way to clean {a_full}?",
            "May I wash the shade of my {full} with water?",
            "My {full} is grey with dust. How do I clean it?",
            "A guest spilled tea on my {full}. What takes it off?",
        ),
        (
            "Thank you for asking how to clean your {item}.",
            "I am glad that you asked before you washed the {item}.",
            "Good question, the {item} likes to be clean.",
            "Of course, I am happy to help you clean the {item}.",
        ),
        (
            "Unplug the {item}, wait ten minutes, and wipe the shade with a dry cloth.",
            "Pull the plug, wait ten minutes, and wipe the {item} gently with a damp cloth.",
            "First unplug the {item}, then wait ten minutes, then wipe it with a soft cloth.",
            "Let the {item} cool for ten minutes with the plug out, and wipe it with a dry cloth.",
        ),
        ("Please use no soap on the brass.", "Let it dry for one night before you plug it in."),
        ("You should have read the manual.", "We do not clean up after people."),
    ),
    Situation(
        "faulty",
        "trouble",
        (
            "My {full} {fault}.",
            "Since {day} my {full} {fault}.",
            "Something is wrong. My {full} {fault}.",
            "Is it normal that my {full} {fault}?",
            "I was fond of my {full}, but now it {fault}.",
            "After one month my {full} {fault}.",
        ),
        (
            "I am so sorry that your {item} {fault_you}.",
            "I am sorry to hear that about your {item}.",
            "I am sorry that the {item} gives you such evenings.",
            "Oh dear, a lamp should not do that, and I am sorry about your {item}.",
        ),
        (
            "Post the {item} to us, and June will mend it within a week.",
            "Otis will fetch the {item} on {soon}, and June will mend it within a week.",
            "I will post you a new switch tomorrow, and it will reach you by {soon}.",
            "I will send you a label today, and June will mend the {item} within a week.",
        ),
        ("We pay the post both ways.", "Please leave it unplugged until then."),
        ("You should have used it less.", "It worked when it left us, so this is your own fault."),
    ),
    Situation(
        "missing",
        "trouble",
        (
            "There was no {part} in the box of my {full}.",
            "My {full} came without its {part}.",
            "I have looked everywhere, but the {part} of my {full} is missing.",
            "Everything is here for my {full}, except the {part}.",
            "My {full} is missing its {part}. It looks at me sadly.",
            "You forgot the {part} of my {full}.",
        ),
        (
            "I am so sorry that your {item} came without its {part}.",
            "I am sorry that we forgot the {part}.",
            "I am sorry, a lamp needs its {part}, and yours stayed on our bench.",
            "I am sorry that the {part} of your {item} is missing.",
        ),
        (
            "I will post the {part} tomorrow morning, and you will have it by {soon}.",
            "The {part} goes out to you tomorrow and will arrive within four days.",
            "Otis will take the {part} to the post today, and it will reach you by {soon}.",
            "I have put the {part} in a box today, and it will be with you by {soon}.",
        ),
        ("You pay nothing for it.", "It goes in with one turn to the right."),
        ("You should have looked in the box again.", "You lost it, so this is your own fault."),
    ),
    Situation(
        "address",
        "question",
        (
            "I have moved to {street}. Can my {full} be sent there?",
            "Please send my {full} to {street}, I have a new address.",
            "Can you still change the address for my {full}? We live in {street} now.",
            "I gave you my old address for the {full}. The new one is {street}.",
            "My {full} must not go to the old house! We are in {street} now.",
            "New house, new lamp. Please send the {full} to my new address in {street}.",
        ),
        (
            "Thank you for telling me about {street} in time.",
            "Of course, I am happy to send your {item} to {street}.",
            "I am glad that you wrote before the {item} left us.",
            "Thank you for the new address for your {item}.",
        ),
        (
            "I have changed the address today, and your {item} will go to {street} on {soon}.",
            "I will write {street} on the box myself, and it goes out tomorrow.",
            "Otis will post the {item} to {street} tomorrow, and it will reach you by {soon}.",
            "I have changed the label today, and the {item} will be in {street} by {soon}.",
        ),
        ("I wish you many bright evenings there.", "The old house will get nothing."),
        ("You should have told us before you moved.", "Where you live is not our problem."),
    ),
    Situation(
        "cancel",
        "question",
        (
            "Please cancel my {full}. I ordered two by mistake.",
            "Can I still cancel the {full} that I ordered on {day}?",
            "I must cancel my {full}, my sister gave me the same one.",
            "Please cancel the {full}. I was tired and it was late and I had had wine.",
            "I would like to cancel my order for {a_full}.",
            "My son ordered {a_full} with my card. He is four. Please cancel it.",
        ),
        (
            "Thank you for telling me about the {item} so soon.",
            "Of course, I am happy to cancel the {item} for you.",
            "I am glad that you wrote before the {item} left us.",
            "Of course, and thank you for writing about the {item}.",
        ),
        (
            "I have cancelled the {item} today, and your money will be back within five days.",
            "I have taken the {item} off the list today, and the money will reach you by {soon}.",
            "I will cancel the {item} today, and you will have your money within five days.",
            "Otis has stopped the parcel today, and I will send your money back by {soon}.",
        ),
        ("You have nothing more to do.", "It happens to us as well."),
        ("You should have thought before you ordered.", "We have no time for such games."),
    ),
    Situation(
        "gift",
        "question",
        (
            "The {full} is for my {recipient}. Can you put a card in the box?",
            "Can you wrap the {full} as a gift for my {recipient}?",
            "My {full} is a present for my {recipient}. Could you wrap it?",
            "Could you leave the bill out of the box? The {full} is a gift for my {recipient}.",
            "I want to give {a_full} to my {recipient}. Do you wrap gifts?",
            "Please write a card with the {full}, it is for my {recipient}. I am bad at cards.",
        ),
        (
            "What a lovely gift, and I am happy to help with the {item}.",
            "Of course, I am happy to wrap the {item} for your {recipient}.",
            "I am glad that your {recipient} will get {a_item}.",
            "Thank you for choosing the {item} for your {recipient}.",
        ),
        (
            "Ada will wrap the {item} tomorrow, and it will reach you by {soon}.",
            "I will write the card by hand today, and the box goes out tomorrow.",
            "I will wrap the {item} in blue paper today, and Otis will post it tomorrow.",
            "Ada will put a card in the box today, and you will have it by {soon}.",
        ),
        ("The bill comes to you in a letter of its own.", "Wrapping costs nothing."),
        ("You should have asked before you ordered.", "Wrapping things is not our problem."),
    ),
    Situation(
        "accident",
        "trouble",
        (
            "My cat chewed the cord of my {full}. Can it be saved?",
            "I dropped my {full}. Can you mend it?",
            "I sat on my {full}. It was dark. Can June mend it?",
            "Our dog has eaten the switch of my {full}. The dog is fine. Can it be mended?",
            "My son used my {full} as a sword. Can it be mended?",
            "The {full} fell off the shelf, and it was my elbow. Can you save it?",
        ),
        (
            "I am so sorry about your {item}, these things happen in the best homes.",
            "I am sorry to hear about your {item}, and I am glad that nobody is hurt.",
            "Oh dear, poor {item}! I am sorry, it has happened to us as well.",
            "I am sorry that your {item} had such a day.",
        ),
        (
            "Post the {item} to us, and June will mend it within a week.",
            "Otis will fetch the {item} on {soon}, and June will mend it within a week.",
            "I will send you a label today, and June will look at the {item} by {soon}.",
            "June will mend the {item} within a week if you post it to us by {soon}.",
        ),
        ("Please leave it unplugged until then.", "She will tell you the price before she starts."),
        ("You should have taken more care.", "You did this, so it is your own fault."),
    ),
    Situation(
        "stock",
        "question",
        (
            "Will you have the {item} in {colour} again?",
            "The {full} is sold out. When will there be more?",
            "Do you still make the {full}?",
            "I missed the last {full}. Will there be another?",
            "When can I buy {a_full} again? I have told the wall to wait.",
            "Is there one {full} left somewhere on a shelf?",
        ),
        (
            "Thank you for asking about the {item}.",
            "I am glad that you want {a_item}.",
            "I am happy to hear that someone is waiting for the {item}.",
            "Of course, I am happy to look for {a_item} for you.",
        ),
        (
            "June will finish four more by {soon}, and I will keep one {item} for you.",
            "I will ask June today, and I will write to you by {soon}.",
            "We make the next {item} in {month}, and I will write to you that week.",
            "I have put your name on the list today, and you will hear from me by {soon}.",
        ),
        ("You need not pay before that.", "The others are in the window, if you cannot wait."),
        (
            "You should have bought one when you could.",
            "If it is not on the list, it is not our problem.",
        ),
    ),
)
BY_KEY = {situation.key: situation for situation in SITUATIONS}
