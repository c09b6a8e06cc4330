"""Facts about Moth & Daughter, the demo's mail-order lamp shop: its products, staff and customers."""

SHOP = "Moth & Daughter"
STAFF = (
    "Ada",
    "June",
    "Otis",
)  # Ada packs, her daughter June mends, Otis takes the parcels to the post

ITEMS = (
    "goose lamp", "fox lamp", "owl lamp", "whale lamp", "snail lamp", "heron lamp",
    "hedgehog lamp", "octopus lamp", "moon lamp", "mushroom lamp", "teapot lamp",
    "lighthouse lamp", "balloon lamp", "piano lamp", "reading lamp", "bedside lamp",
    "desk lamp", "tulip lamp", "pear lamp", "cactus lamp", "cloud lamp", "rocket lamp",
    "anchor lamp", "bicycle lamp", "paper lantern", "garden lantern", "storm lantern",
    "star lantern", "night light", "ship light", "porch light", "attic light",
)  # fmt: skip
COLOURS = ("brass", "green", "blue", "red", "yellow", "white", "black", "copper", "pink", "grey")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
MONTHS = ("March", "April", "May", "September", "October", "November")
PARTS = ("plug", "shade", "bulb", "screw", "cord", "switch", "hook", "foot")
DAMAGES = (
    "a cracked shade", "a bent neck", "a broken foot", "a dent as big as a plum",
    "a torn cord", "a loose switch", "a hole in the shade", "a scratch from top to toe",
)  # fmt: skip
FAULTS = (
    "flickers", "hums", "buzzes like a bee", "goes out at nine every evening",
    "only works when I am cross", "smells of toast", "blinks at my guests",
    "has stopped working",
)  # fmt: skip
STREETS = ("Mill Lane", "Harbour Street", "Church Hill", "Apple Road", "Station Road", "Well Lane")
RECIPIENTS = ("aunt", "brother", "mother", "teacher", "neighbour", "best friend", "husband", "boss")
NAMES = (
    "Ines", "Tom", "Priya", "Hugo", "Mina", "Oskar", "Leila", "Paul", "Rosa", "Felix",
    "Amara", "Jonas", "Nora", "Emil", "Sofia", "Kofi", "Greta", "Luca", "Yuki", "Vera",
    "Samir", "Edith", "Bruno", "Alma", "Ivan", "Clara", "Mateo", "Ruth", "Anton", "Zoe",
    "Malik", "Elsa", "Victor", "Hanna", "Diego", "Olive", "Simon", "Tara", "Walter", "Maud",
)  # fmt: skip


def a(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun
