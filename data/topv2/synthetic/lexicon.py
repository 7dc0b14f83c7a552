"""Values of the synthetic corpus, written for it.

``@name`` in a template draws a value from ``LEXICON[name]``; a value may itself hold ``@names`` and
``(a|b)`` choices. The last fifth of every list named in :data:`HELD_OUT` never occurs in training.
"""

from __future__ import annotations

LEXICON: dict[str, tuple[str, ...]] = {
    "hour": ("6", "7", "8", "9", "10", "11", "12", "5", "4", "3", "2", "1"),
    "minute": ("15", "30", "45", "10", "20", "50", "05", "40", "25", "55"),
    "number": ("two", "3", "five", "10", "15", "twenty", "four", "6", "seven", "eight", "12", "forty", "nine", "25", "90"),
    "unit": ("minutes", "hours", "seconds", "days", "weeks"),
    "weekday": ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    "month": ("january", "march", "april", "may", "june", "july", "october", "december", "august", "november"),
    "day": ("1st", "3rd", "5th", "9th", "12th", "14th", "20th", "22nd", "30th", "27th"),
    "part": ("morning", "afternoon", "evening", "night"),
    "clock": ("@hour@am", "@hour:@minute@am", "@hour:@minute", "@hour o'clock", "noon", "midnight", "half past @hour"),
    "am": ("am", "pm", " am", " pm"),
    "date": (
        "tomorrow", "today", "tonight", "on @weekday", "next @weekday", "this @part", "@weekday @part",
        "tomorrow @part", "on @month @day", "the day after tomorrow", "this weekend", "next week", "on the @day of @month",
    ),
    "when": ("at @clock", "@date at @clock", "at @clock @date", "@date", "by @clock", "around @clock @date", "in @number @unit"),
    "span_of_time": ("@number @unit", "an hour", "half an hour", "an hour and @number minutes", "a day"),
    "frequency": ("every day", "every @weekday", "each morning", "daily", "every @number hours", "weekly", "every other @weekday", "on weekdays"),
    "person": (
        "anna", "ben", "carla", "deepak", "elena", "fatima", "george", "hana", "ivan", "julia", "kofi", "lena", "marco",
        "nadia", "oscar", "priya", "quentin", "rosa", "sven", "tariq", "uma", "viktor", "wanda", "xenia", "yusuf", "zoe",
        "anna maria", "ben carter", "uncle pete", "aunt may", "dr novak", "mr okafor", "olga", "pavel", "ruth", "selma",
    ),
    "relation": ("mum", "dad", "sister", "brother", "wife", "husband", "boss", "neighbour", "roommate", "cousin", "grandma", "coach"),
    "city": (
        "paris", "oslo", "lima", "new york", "cape town", "austin", "kyoto", "san diego", "berlin", "quito", "accra",
        "salt lake city", "dublin", "perth", "hanoi", "porto", "buenos aires", "leeds", "nairobi", "tromso",
    ),
    "place": (
        "the airport", "the library", "the train station", "the stadium", "the harbour", "the old town", "the museum",
        "the botanical garden", "the town hall", "the university", "the mall", "pier 39", "the zoo", "the opera house",
        "gate four", "the north bridge", "the community pool", "the observatory",
    ),
    "road": ("route 9", "the ring road", "highway 12", "main street", "the coast road", "i 80", "elm avenue", "the toll bridge", "sunset drive", "the tunnel"),
    "vehicle": ("car", "bike", "bus", "train", "ferry", "tram"),
    "poi": ("gas stations", "coffee shops", "parking lots", "pharmacies", "bakeries", "charging stations", "rest areas", "hotels", "supermarkets", "car washes"),
    "task": (
        "water the plants", "buy milk", "pay the rent", "feed the cat", "pick up the dry cleaning", "renew my passport",
        "clean the garage", "take my medicine", "book the flights", "return the library books", "walk the dog",
        "back up my laptop", "charge the camera", "order new tyres", "sign the contract", "defrost the fish",
        "collect the parcel", "bake a cake", "fix the fence", "vote", "sweep the porch", "polish the silver",
    ),
    "message": (
        "i'm running late", "happy birthday", "see you soon", "dinner is ready", "call me back", "the meeting moved",
        "don't forget the keys", "i'll be there in a bit", "thanks for the help", "we won the game", "bring your umbrella",
        "the package arrived", "are you free tonight", "good luck", "i miss you", "let's eat out", "what's the wifi code",
        "the bus broke down", "save me a seat", "it's a girl",
    ),
    "app": ("whatsapp", "signal", "email", "messenger", "telegram", "sms"),
    "group": ("the hiking club", "my family chat", "the soccer team", "the book circle", "my roommates", "the band", "the night shift", "team blue"),
    "artist": (
        "the paper kites", "nina rivers", "blue harbour", "dj marlow", "the tin soldiers", "lila monroe", "grey wolves",
        "old market band", "simone vale", "kid comet", "the long winter", "maya stone", "north avenue", "juno falls", "the velvet foxes",
    ),
    "song": (
        "yellow morning", "run to the sea", "paper moon", "midnight train home", "dancing alone", "the last lantern",
        "summer rain", "glass hearts", "golden hour", "river song", "falling upward", "lost in june", "hello stranger", "two steps back", "city of ghosts",
    ),
    "album": ("first light", "the quiet year", "blue notes", "letters home", "wild honey", "echo park", "winter tales", "open roads", "salt and stone", "parallel lines"),
    "genre": ("jazz", "country", "hip hop", "classical", "reggae", "folk", "techno", "indie rock", "soul", "blues", "punk", "bossa nova"),
    "playlist": ("road trip", "sunday chill", "gym beats", "focus time", "party mix", "rainy day", "sleep sounds", "throwback hits", "kitchen disco", "morning boost"),
    "service": ("spotify", "pandora", "deezer", "tidal", "apple music", "soundcloud"),
    "event": (
        "jazz concerts", "food festivals", "art exhibitions", "comedy shows", "craft fairs", "football games",
        "book readings", "film screenings", "yoga classes", "flea markets", "poetry slams", "wine tastings", "marathons", "chess tournaments", "farmers markets",
    ),
    "event_name": ("the lantern festival", "oktoberfest", "the spring gala", "comic con", "the harvest fair", "jazz under the stars", "the city marathon", "the tulip parade", "light week", "the boat race"),
    "attribute": ("free", "outdoor", "family friendly", "cheap", "live", "indoor", "sold out", "charity"),
    "weather": ("rain", "snow", "fog", "hail", "thunderstorms", "sunshine", "frost", "strong wind", "sleet", "humidity"),
    "degree": ("celsius", "fahrenheit", "kelvin"),
    "alarm_name": ("workout", "school run", "medication", "baking", "night shift", "meditation", "tea", "stand up", "garden", "piano"),
    "timer_name": ("pasta", "egg", "laundry", "pizza", "nap", "plank", "oven", "study", "steak", "yoga"),
    "ordinal": ("first", "second", "next", "last", "third"),
    "amount": ("all", "both", "all of", "every one of"),
    "please": ("", "", "", "please ", "hey ", "can you ", "could you ", "i want you to ", "go ahead and ", "would you kindly "),
    "thanks": ("", "", "", "", " please", " thanks", " for me", " right away", " if you can"),
    "end": ("", "", "", ".", "?", "!"),
}

#: Lists whose last fifth is kept from training, so that evaluation shows whether values are copied or memorised.
HELD_OUT = (
    "person", "city", "place", "road", "task", "message", "artist", "song", "album", "playlist", "event",
    "event_name", "group", "alarm_name", "timer_name",
)  # fmt: skip
