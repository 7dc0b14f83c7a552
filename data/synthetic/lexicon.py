"""Words and values that the synthetic corpus is made of, written for it.

``@name`` in a template draws a value from ``LEXICON[name]``; a value may itself hold ``@names`` and ``(a|b)`` choices.
Names of people, titles and tasks are made of parts, so that a parser meets thousands of them and learns where they
stand rather than what they are. The last fifth of every list named in :data:`HELD_OUT` never occurs in training.
"""

from __future__ import annotations


def _listed(text: str) -> tuple[str, ...]:
    return tuple(" ".join(value.split()) for value in text.split(","))


LEXICON: dict[str, tuple[str, ...]] = {
    "hour": _listed("6, 7, 8, 9, 10, 11, 12, 5, 4, 3, 2, 1"),
    "minute": _listed("15, 30, 45, 10, 20, 50, 05, 40, 25, 55"),
    "number": _listed("two, 3, five, 10, 15, twenty, four, 6, seven, eight, 12, forty, nine, 25, 90"),
    "unit": (
        "minutes",
        "hours",
        "seconds",
        "days",
        "weeks",
    ),
    "weekday": (
        "monday",
        "tuesday",
        "wednesday",
        "thursday",
        "friday",
        "saturday",
        "sunday",
    ),
    "month": _listed("january, march, april, may, june, july, october, december, august, november"),
    "day": _listed("1st, 3rd, 5th, 9th, 12th, 14th, 20th, 22nd, 30th, 27th"),
    "part": (
        "morning",
        "afternoon",
        "evening",
        "night",
    ),
    "clock": (
        "@hour@am",
        "@hour:@minute@am",
        "@hour:@minute",
        "@hour o'clock",
        "noon",
        "midnight",
        "half past @hour",
    ),
    "am": (
        "am",
        "pm",
        " am",
        " pm",
    ),
    "date": _listed("""
        tomorrow, today, tonight, on @weekday, next @weekday, this @part, @weekday @part, tomorrow @part, on @month
        @day, the day after tomorrow, this weekend, next week, on the @day of @month
    """),
    "when": (
        "at @clock",
        "@date at @clock",
        "at @clock @date",
        "@date",
        "by @clock",
        "around @clock @date",
        "in @number @unit",
    ),
    "span_of_time": (
        "@number @unit",
        "an hour",
        "half an hour",
        "an hour and @number minutes",
        "a day",
    ),
    "frequency": _listed("""
        every day, every @weekday, each morning, daily, every @number hours, weekly, every other @weekday, on weekdays
    """),
    "person": (
        "@forename",
        "@forename",
        "@forename",
        "@forename",
        "@forename @surname",
        "(dr|mr|mrs|professor) @surname",
        "(uncle|aunt) @forename",
    ),
    "relation": _listed("""
        mum, dad, sister, brother, wife, husband, boss, neighbour, roommate, cousin, grandma, coach
    """),
    "city": _listed("""
        paris, oslo, lima, new york, cape town, austin, kyoto, san diego, berlin, quito, accra, salt lake city,
        dublin, perth, hanoi, porto, lisbon, bergen, seville, mumbai, toronto, glasgow, nantes, helsinki, santiago,
        denver, geneva, marseille, havana, naples, tucson, bristol, osaka, krakow, dakar, lagos, medellin, riga,
        salem, tallinn, utrecht, valencia, warsaw, zagreb, el paso, san jose, st louis, fort worth, rio grande, new
        haven, buenos aires, leeds, nairobi, tromso, malmo, ghent, boise, split, leipzig, cusco, adelaide
    """),
    "place": (
        "the @venue",
        "the @venue",
        "the @quarter @venue",
        "pier @number",
        "gate @number",
        "the @city @venue",
    ),
    "road": (
        "@street (street|avenue|road|lane|boulevard)",
        "@street (street|avenue|road|lane|boulevard)",
        "(route|highway|interstate) @number",
        "the @quarter (bridge|tunnel|ring road|coast road)",
    ),
    "vehicle": (
        "car",
        "bike",
        "bus",
        "train",
        "ferry",
        "tram",
    ),
    "poi": _listed("""
        gas stations, coffee shops, parking lots, pharmacies, bakeries, charging stations, rest areas, hotels,
        supermarkets, car washes
    """),
    "task": (
        "@chore (the|my|some|a|our) @thing",
        "@chore (the|my|some|a|our) @thing",
        "@chore (the|my|some|a|our) @thing",
        "@errand",
    ),
    "message": _listed("""
        @saying, @saying, the @thing (arrived|is ready|is here|broke|got lost), don't forget the @thing, i
        (need|found|lost|bought) (the|a|your|some) @thing, @forename is (here|late|on the way|asking for you),
        (let's|we could) meet (at|near) the @venue, i'm (at|near|leaving) the @venue
    """),
    "app": (
        "whatsapp",
        "signal",
        "email",
        "messenger",
        "telegram",
        "sms",
    ),
    "group": (
        "the @hobby (club|team|circle|group)",
        "the @hobby (club|team|circle|group)",
        "my @hobby (friends|buddies|chat)",
        "team @colour",
        "@crowd",
    ),
    "artist": (
        "the @mood @image band",
        "the @colour @image band",
        "@forename @surname",
        "@forename @surname",
        "dj @surname",
        "@mood @image",
    ),
    "song": (
        "@mood @image",
        "@colour @image",
        "(city|house|land) of @image",
        "the last @image",
        "(dancing|lost|running) in the @image",
        "@track",
    ),
    "album": (
        "@mood @image",
        "@colour @image",
        "songs for the @image",
        "the year of the @image",
        "@record",
    ),
    "genre": _listed("""
        jazz, country, hip hop, classical, reggae, folk, techno, indie rock, soul, blues, punk, bossa nova
    """),
    "playlist": (
        "@pursuit (mix|beats|hits|sounds|vibes|classics)",
        "@pursuit (mix|beats|hits|sounds|vibes|classics)",
        "@colour @image",
        "@mixtape",
    ),
    "service": (
        "spotify",
        "pandora",
        "deezer",
        "tidal",
        "apple music",
        "soundcloud",
    ),
    "event": (
        "@topic (concerts|festivals|shows|fairs|classes|games|readings|exhibitions|tournaments)",
        "@topic (concerts|festivals|shows|fairs|classes|games|readings|exhibitions|tournaments)",
        "@outing",
    ),
    "event_name": (
        "the @festive (festival|gala|fair|parade|race|ball|marathon)",
        "the @festive (festival|gala|fair|parade|race|ball|marathon)",
        "the @city (festival|gala|fair|parade|race|ball|marathon)",
        "@celebration",
    ),
    "attribute": _listed("free, outdoor, family friendly, cheap, live, indoor, sold out, charity"),
    "weather": _listed("rain, snow, fog, hail, thunderstorms, sunshine, frost, strong wind, sleet, humidity"),
    "degree": (
        "celsius",
        "fahrenheit",
        "kelvin",
    ),
    "alarm_name": _listed("""
        workout, school run, medication, baking, night shift, meditation, tea, stand up, gym, dentist, morning run,
        homework, prayer, breakfast, early shift, bus, meeting, swim, exam, vitamins, rehearsal, laundry, market,
        flight, garden, piano, rowing, choir, tutor
    """),
    "timer_name": _listed("""
        pasta, egg, laundry, pizza, nap, plank, oven, study, rice, bread, tea, workout, roast, cookie, stretch,
        reading, game, soup, parking, break, chicken, homework, dryer, steak, yoga, lasagna, sauna, puzzle, incense
    """),
    "ordinal": (
        "first",
        "second",
        "next",
        "last",
        "third",
    ),
    "amount": (
        "all",
        "both",
        "all of",
        "every one of",
    ),
    "please": (
        "",
        "",
        "",
        "please ",
        "hey ",
        "can you ",
        "could you ",
        "i want you to ",
        "go ahead and ",
        "would you kindly ",
    ),
    "thanks": (
        "",
        "",
        "",
        "",
        " please",
        " thanks",
        " for me",
        " right away",
        " if you can",
    ),
    "end": (
        "",
        "",
        "",
        ".",
        "?",
        "!",
    ),
    "forename": _listed("""
        anna, ben, carla, deepak, elena, fatima, george, hana, ivan, julia, kofi, lena, marco, nadia, oscar, priya,
        quentin, rosa, sven, tariq, uma, viktor, wanda, xenia, yusuf, zoe, amir, bianca, cyrus, dora, emil, freya,
        gita, hugo, ines, jonas, keiko, luca, mila, noor, otto, petra, rafael, sofia, tomas, ursula, vera, wim, yara,
        zane, abel, britta, clara, dmitri, esther, felix, greta, hassan, ida, jamal, olga, pavel, ruth, selma, leif,
        marta, nils, opal, rufus, tessa, vince, amara, boris, celia, dario
    """),
    "surname": _listed("""
        carter, novak, okafor, lindgren, moreau, tanaka, silva, haddad, kowalski, brandt, osei, murphy, petrov, rossi,
        larsen, castillo, nguyen, fischer, byrne, adeyemi, dumont, hoffman, ito, khan, lopez, mbeki, olsen, pereira,
        quinn, santos, weber, zhang, abbott, costa, duran
    """),
    "venue": _listed("""
        airport, library, train station, stadium, harbour, museum, town hall, university, mall, zoo, opera house,
        community pool, market, hospital, ferry terminal, post office, planetarium, theatre, castle, lighthouse,
        cathedral, golf course, campground, cinema, aquarium, arena, bus depot, court house, ice rink, marina,
        observatory, botanical garden, monastery, race track, skate park, water mill
    """),
    "quarter": _listed("old, north, central, new, south, royal, east, upper, city, main, west, lower, grand"),
    "street": _listed("""
        main, elm, sunset, maple, king, river, church, mill, station, oak, victoria, chestnut, hill, garden, cedar,
        bishop, canal, lincoln, rose, willow, birch, harbour, orchard, spring, temple, walnut, juniper, meadow, quarry
    """),
    "thing": _listed("""
        plants, milk, rent, cat, dry cleaning, passport, garage, flights, library books, dog, laptop, camera, tyres,
        contract, fish, parcel, cake, fence, bike, roof, printer, curtains, sofa, piano, lawn mower, suitcase, kitchen
        sink, invoice, car keys, carpet, phone bill, groceries, school uniform, tax form, hotel room, birthday
        present, tent, lamp, flowers, windows, ladder, mattress, jacket, bread, coffee, guitar, skis, oven, silver,
        porch, boiler, hedge, kayak, blender, gutter, visa, receipts, chimney
    """),
    "chore": _listed("""
        buy, pay for, feed, pick up, renew, clean, take, book, return, walk, back up, charge, order, sign, collect,
        fix, sell, wrap, paint, measure, check, replace, bring, find, insure, unpack, polish, sweep, repair, water,
        dust, photograph
    """),
    "errand": _listed("""
        water the plants, buy milk, pay the rent, feed the cat, pick up the dry cleaning, renew my passport, clean the
        garage, take my medicine, book the flights, return the library books, walk the dog, back up my laptop, charge
        the camera, order new tyres, sign the contract, defrost the fish, collect the parcel, bake a cake, fix the
        fence, vote, sweep the porch, polish the silver
    """),
    "saying": _listed("""
        i'm running late, happy birthday, see you soon, dinner is ready, call me back, the meeting moved, don't forget
        the keys, i'll be there in a bit, thanks for the help, we won the game, bring your umbrella, the package
        arrived, are you free tonight, good luck, i miss you, let's eat out, happy new year, i'm stuck in traffic, we
        are almost there, can you talk, congratulations, dinner was lovely, see you at the game, please call home,
        sleep well, no worries, what's the wifi code, the bus broke down, save me a seat, it's a girl, good morning,
        you were right
    """),
    "hobby": _listed("""
        hiking, soccer, book, chess, running, choir, cycling, gardening, pottery, debate, sailing, knitting, climbing,
        photo, dance, tennis, bowling, drama, science, surf, fencing, judo, robotics, baking
    """),
    "crowd": _listed("""
        the hiking club, my family chat, the soccer team, the book circle, my roommates, the band, the night shift,
        team blue
    """),
    "colour": _listed("""
        blue, grey, golden, red, silver, green, violet, amber, black, white, scarlet, crimson, ivory, copper
    """),
    "mood": _listed("""
        quiet, wild, long, old, electric, lonely, broken, frozen, northern, hollow, distant, sweet, restless, velvet,
        tiny, burning, crooked, gentle, midnight, paper, secret, sleepy, hidden, brave, stolen, fading, lucky, silent,
        bitter, hungry
    """),
    "image": _listed("""
        river, moon, lantern, rain, heart, hour, song, ghost, harbour, kite, wolf, winter, fox, road, honey, stone,
        line, summer, train, window, garden, mountain, shadow, mirror, letter, island, feather, city, storm, dream,
        bridge, desert, ocean, candle, comet, arrow, meadow, anchor, thunder, sparrow, tide, ember
    """),
    "track": _listed("""
        yellow morning, run to the sea, paper moon, midnight train home, dancing alone, the last lantern, summer rain,
        glass hearts, golden hour, river song, falling upward, lost in june, hello stranger, two steps back, city of
        ghosts
    """),
    "record": _listed("""
        first light, the quiet year, blue notes, letters home, wild honey, echo park, winter tales, open roads, salt
        and stone, parallel lines
    """),
    "pursuit": _listed("""
        road trip, sunday, gym, focus, party, rainy day, sleep, throwback, kitchen, morning, study, beach, wedding,
        winter, office, yoga, campfire, monday, dinner, running, summer, cleaning, halloween, sunrise, travel
    """),
    "mixtape": _listed("""
        road trip, sunday chill, gym beats, focus time, party mix, rainy day, sleep sounds, throwback hits, kitchen
        disco, morning boost
    """),
    "topic": _listed("""
        jazz, food, art, comedy, craft, football, book, film, yoga, wine, chess, poetry, dance, history, garden,
        antique, magic, science, cheese, fashion, robot, opera, beer, folk, puppet, circus, coffee, knitting, tango,
        kite
    """),
    "outing": _listed("""
        jazz concerts, food festivals, art exhibitions, comedy shows, craft fairs, football games, book readings, film
        screenings, yoga classes, flea markets, poetry slams, wine tastings, marathons, chess tournaments, farmers
        markets
    """),
    "festive": _listed("""
        lantern, spring, harvest, tulip, boat, light, cherry, midsummer, carnival, pumpkin, lake, charity, winter,
        dragon, balloon, apple, medieval, firefly, snow, maple, strawberry, oyster, torch, mountain, masquerade,
        sunflower, seafood, pirate, salmon, lavender, mask, lobster
    """),
    "celebration": _listed("""
        the lantern festival, oktoberfest, the spring gala, comic con, the harvest fair, jazz under the stars, the
        city marathon, the tulip parade, light week, the boat race
    """),
}

#: Lists whose last fifth is kept from training, so that evaluation shows whether values are copied or memorised.
HELD_OUT = frozenset(
    _listed("""
    forename, surname, city, venue, street, thing, chore, errand, saying, hobby, crowd, colour, mood, image,
    track, record, mixtape, pursuit, topic, outing, festive, celebration, alarm_name, timer_name
""")
)
