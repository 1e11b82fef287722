"""Sentences, names and words from which `make_retrieval.py` makes its corpora and questions.

A fact is (sentences, questions); of the questions the first uses other forms of the sentence's words, the second other
words (synonyms). ``{P}`` is a place, ``{N}`` a person, ``{k}`` a number.
"""

ENGLISH = [
    (
        ["The council put off the regatta at {P} because the slipway was under water."],
        [
            "Why was the regatta of {P} being put off by the councillors?",
            "What caused the boat race in {P} to be delayed?",
        ],
    ),
    (
        [
            "{N} repaired the church clock of {P}, which had stopped for {k} days.",
            "The clock at {P} stood still for {k} days until {N} repaired it.",
        ],
        ["Who did the repairing of the stopped clocks in {P}?", "Who fixed the timepiece on the church at {P}?"],
    ),
    (
        ["A fire destroyed the granary of {P}; {N} had left a lamp burning."],
        ["Which fires were destroying granaries in {P}?", "What burnt down the grain store of {P}?"],
    ),
    (
        [
            "{N} bought the old mill near {P} for {k} crowns.",
            "The mill outside {P} was bought by {N}, who paid {k} crowns.",
        ],
        ["Who is the buyer of the mills at {P}?", "For how much money was the mill of {P} purchased?"],
    ),
    (
        ["The schoolmaster {N} resigned from {P} after a quarrel over wages."],
        ["Why did the resignation of schoolmasters happen in {P}?", "What made the teacher of {P} quit his post?"],
    ),
    (
        ["In {P} the doctor vaccinated {k} children against smallpox."],
        ["How many child vaccinations did doctors do in {P}?", "How many youngsters were inoculated in {P}?"],
    ),
    (
        [
            "Wolves killed {k} sheep on the upper pasture of {P}.",
            "On the pastures above {P}, {k} sheep were killed by wolves.",
        ],
        [
            "How many losses by a wolf killing a sheep were there in {P}?",
            "How much livestock did predators take at {P}?",
        ],
    ),
    (
        ["{N} discovered a Roman coin while ploughing a field of {P}."],
        [
            "Who made the discovery of coins when he ploughed in {P}?",
            "What ancient money was found by a farmer of {P}?",
        ],
    ),
    (
        ["The ferry of {P} sank in the autumn gale, and {N} drowned."],
        ["When ferries were sinking at {P}, who was drowning?", "Who died when the boat of {P} went down?"],
    ),
    (
        ["The new bridge at {P} was opened by {N} with {k} guests."],
        ["Who did the opening of the bridges in {P}?", "Who inaugurated the river crossing of {P}?"],
    ),
    (
        ["The brewery of {P} employs {k} workers and exports to the coast."],
        ["How many find employment in the breweries of {P}?", "How many people have jobs making beer in {P}?"],
    ),
    (
        ["A flood carried off the timber that lay stacked at {P}."],
        ["Which timbers did the floods carry from {P}?", "Which wood was swept away by high water in {P}?"],
    ),
    (
        ["{N} sued the miller of {P} over the right to the stream."],
        ["Why are the millers of {P} being sued?", "Who brought a lawsuit about water in {P}?"],
    ),
    (
        ["The postmaster of {P} was dismissed: {k} letters were missing."],
        ["Why did the dismissal of the postmasters in {P} come?", "Why was the mail official of {P} fired?"],
    ),
    (
        ["The harvest of {P} failed, and bread was rationed to {k} ounces."],
        [
            "What rationing of bread came after failing harvests in {P}?",
            "How big was the food allowance in {P} after the poor crop?",
        ],
    ),
    (
        ["{N} painted the altar of {P} in exchange for board and lodging."],
        ["Who was the painter of the altars in {P}?", "Which artist decorated the chapel of {P} for food and a bed?"],
    ),
    (
        ["Thieves stole {k} candlesticks from the vestry of {P}."],
        [
            "What did the thief's stealing from the vestries of {P} take?",
            "What was robbed from the church room in {P}?",
        ],
    ),
    (
        ["The railway reached {P}, and {N} became the station master."],
        ["Who was made master of the stations when railways were reaching {P}?", "Who ran the train stop at {P}?"],
    ),
    (
        ["{N} translated the charter of {P} from Latin."],
        [
            "Whose translation of the charters of {P} is it?",
            "Who rendered the founding document of {P} in modern language?",
        ],
    ),
    (
        ["The lighthouse keeper of {P} reported {k} wrecks in one winter."],
        [
            "How many wrecks are in the reports of lighthouse keepers at {P}?",
            "How many ships were lost near the beacon of {P}?",
        ],
    ),
    (
        ["The well of {P} was poisoned by the tannery upstream."],
        ["Which tanneries were poisoning wells in {P}?", "What contaminated the drinking water of {P}?"],
    ),
    (
        ["{N} inherited the vineyard of {P} from an aunt."],
        ["Whose inheritance were the vineyards of {P}?", "Who got the wine estate of {P} from a relative?"],
    ),
    (
        ["The market of {P} moved to the square because carts blocked the gate."],
        ["Why was the moving of the markets in {P} decided?", "Why was the fair of {P} relocated?"],
    ),
    (
        ["The choir of {P} rehearsed in the barn, as {N} had locked the hall."],
        ["Where were rehearsals of the choirs in {P}?", "Where did the singers of {P} practise?"],
    ),
    (
        ["A tax on windows emptied {k} houses in {P}."],
        ["Which taxes on a window were emptying a house in {P}?", "Which levy made people abandon their homes in {P}?"],
    ),
    (
        ["{N} founded a library in {P} with {k} volumes."],
        ["Who is the founder of the libraries in {P}?", "Who set up the reading room with many books in {P}?"],
    ),
    (
        ["The quarry of {P} closed after a rockfall injured {N}."],
        ["What caused the closing of quarries and injuries in {P}?", "Why did the stone pit of {P} shut?"],
    ),
    (
        ["The apprentice of {N} forged signatures on bills in {P}."],
        ["Which forgery of a signature happened in {P}?", "Who faked names on invoices in {P}?"],
    ),
    (
        ["Snow buried the road to {P} for {k} weeks."],
        ["How long were the roads to {P} buried when it snowed?", "How long was {P} cut off in winter?"],
    ),
    (
        ["The innkeeper of {P} refused to lodge soldiers and paid {k} crowns."],
        [
            "What payment followed the refusal of innkeepers in {P} to give a soldier lodging?",
            "What did the publican of {P} pay for not housing troops?",
        ],
    ),
]

GERMAN = [
    (
        ["Der Rat von {P} verschob die Versammlung, weil das Rathaus brannte."],
        ["Warum wurden Versammlungen der Räte in {P} verschoben?", "Weshalb hat man die Sitzung in {P} vertagt?"],
    ),
    (
        ["{N} kaufte das alte Haus am Markt von {P} für {k} Taler."],
        ["Wer ist der Käufer der alten Häuser in {P}?", "Wer erwarb das Gebäude am Platz von {P}?"],
    ),
    (
        ["Ein Sturm zerstörte {k} Dächer in {P}."],
        ["Welche Stürme haben in {P} ein Dach zerstört?", "Was hat in {P} die Ziegel abgedeckt?"],
    ),
    (
        ["{N} reparierte die Brücke über den Bach bei {P}."],
        ["Wer hat die Reparatur der Brücken in {P} besorgt?", "Wer setzte den Übergang bei {P} instand?"],
    ),
    (
        ["Die Lehrerin {N} kündigte in {P} nach einem Streit um den Lohn."],
        [
            "Was war der Grund für die Kündigung der Lehrerinnen von {P}?",
            "Weshalb verließ die Schulmeisterin von {P} ihre Stelle?",
        ],
    ),
    (
        ["In {P} impfte der Arzt {k} Kinder gegen die Pocken."],
        [
            "Wie viele Impfungen eines Kindes machten Ärzte in {P}?",
            "Wie viele Knaben und Mädchen schützte der Doktor in {P}?",
        ],
    ),
    (
        ["Wölfe rissen {k} Schafe auf der Weide von {P}."],
        ["Hat ein Wolf auf den Weiden von {P} ein Schaf gerissen?", "Wie viel Vieh fiel Raubtieren in {P} zum Opfer?"],
    ),
    (
        ["{N} fand beim Pflügen eine römische Münze bei {P}."],
        ["Wer pflügte und hat römische Münzen bei {P} gefunden?", "Welches antike Geld entdeckte der Bauer bei {P}?"],
    ),
    (
        ["Die Fähre bei {P} sank im Herbst, und {N} ertrank."],
        ["Wer ist ertrunken, als Fähren in {P} gesunken sind?", "Wer starb beim Untergang des Bootes von {P}?"],
    ),
    (
        ["Die Brauerei von {P} beschäftigt {k} Arbeiter."],
        ["Wie groß ist die Beschäftigung der Brauereien in {P}?", "Wie viele Leute machen in {P} Bier?"],
    ),
    (
        ["Das Hochwasser trug das gestapelte Holz von {P} fort."],
        ["Welche Hölzer haben die Hochwässer in {P} fortgetragen?", "Was riss die Flut in {P} mit?"],
    ),
    (
        ["{N} verklagte den Müller von {P} wegen des Wassers."],
        ["Wegen welcher Klage wurden die Müller in {P} verklagt?", "Wer führte einen Prozess um den Bach in {P}?"],
    ),
    (
        ["Diebe stahlen {k} Leuchter aus der Kirche von {P}."],
        ["Was hat der Dieb aus den Kirchen von {P} gestohlen?", "Was wurde im Gotteshaus von {P} entwendet?"],
    ),
    (
        ["{N} gründete in {P} eine Bücherei mit {k} Bänden."],
        ["Wer ist der Gründer der Büchereien in {P}?", "Wer stiftete die Bibliothek von {P}?"],
    ),
    (
        ["Der Brunnen von {P} wurde durch die Gerberei vergiftet."],
        ["Welche Gerbereien haben die Brunnen von {P} vergiftet?", "Was verseuchte das Trinkwasser von {P}?"],
    ),
    (
        ["Der Wirt von {P} weigerte sich, Soldaten zu beherbergen, und zahlte {k} Taler."],
        [
            "Was zahlten Wirte in {P} für die Weigerung, einen Soldaten zu beherbergen?",
            "Was musste der Gastgeber in {P} zahlen, der keine Truppen aufnahm?",
        ],
    ),
]

FRENCH = [
    (
        ["Le conseil de {P} reporta la foire parce que la place était inondée."],
        [
            "Pourquoi les foires de {P} ont-elles été reportées par les conseils ?",
            "Pourquoi le marché de {P} fut-il remis à plus tard ?",
        ],
    ),
    (
        ["{N} acheta le vieux moulin de {P} pour {k} écus."],
        ["Qui est l'acheteur des vieux moulins à {P} ?", "Qui fit l'acquisition de la meunerie de {P} ?"],
    ),
    (
        ["Un orage détruisit {k} toits à {P}."],
        ["Quels orages ont détruit un toit à {P} ?", "Quelle tempête emporta les tuiles de {P} ?"],
    ),
    (
        ["{N} répara le pont de bois près de {P}."],
        ["Qui a fait la réparation des ponts à {P} ?", "Qui remit en état le passage sur la rivière à {P} ?"],
    ),
    (
        ["L'institutrice {N} démissionna à {P} après une querelle de salaire."],
        [
            "Pourquoi la démission des institutrices de {P} ?",
            "Pourquoi la maîtresse d'école quitta-t-elle son poste à {P} ?",
        ],
    ),
    (
        ["À {P}, le médecin vaccina {k} enfants contre la variole."],
        [
            "Combien de vaccinations d'un enfant par les médecins à {P} ?",
            "Combien de petits le docteur a-t-il protégés à {P} ?",
        ],
    ),
    (
        ["Des loups tuèrent {k} brebis dans le pâturage de {P}."],
        ["Un loup a-t-il tué une brebis aux pâturages de {P} ?", "Combien de bétail fut dévoré à {P} ?"],
    ),
    (
        ["{N} découvrit une pièce romaine en labourant un champ de {P}."],
        [
            "Qui a fait la découverte des pièces romaines dans les champs labourés de {P} ?",
            "Quelle monnaie antique le paysan trouva-t-il à {P} ?",
        ],
    ),
    (
        ["Le bac de {P} coula en automne, et {N} se noya."],
        ["Qui s'est noyé quand les bacs de {P} ont coulé ?", "Qui mourut dans le naufrage du bateau de {P} ?"],
    ),
    (
        ["La brasserie de {P} emploie {k} ouvriers."],
        ["Quel est l'emploi des brasseries de {P} ?", "Combien de gens font de la bière à {P} ?"],
    ),
    (
        ["La crue emporta le bois empilé à {P}."],
        ["Qu'ont emporté les crues à {P} ?", "Que prit la montée des eaux à {P} ?"],
    ),
    (
        ["{N} poursuivit le meunier de {P} pour le droit d'eau."],
        ["Quelle poursuite contre les meuniers de {P} ?", "Qui fit un procès au sujet de la rivière à {P} ?"],
    ),
    (
        ["Des voleurs dérobèrent {k} chandeliers dans l'église de {P}."],
        [
            "Quel voleur a dérobé un chandelier aux églises de {P} ?",
            "Quels objets furent pris dans le lieu saint de {P} ?",
        ],
    ),
    (
        ["{N} fonda à {P} une bibliothèque de {k} volumes."],
        ["Qui est le fondateur des bibliothèques de {P} ?", "Qui créa la salle de lecture de {P} ?"],
    ),
    (
        ["Le puits de {P} fut empoisonné par la tannerie."],
        ["Quelles tanneries ont empoisonné les puits de {P} ?", "Qu'est-ce qui souilla l'eau potable de {P} ?"],
    ),
    (
        ["L'aubergiste de {P} refusa de loger des soldats et paya {k} écus."],
        [
            "Quel fut le paiement après le refus des aubergistes de {P} de loger un soldat ?",
            "Que paya le patron de {P} qui n'hébergeait pas de troupes ?",
        ],
    ),
]

# Sentences beside the facts, with words of the facts in other roles.
ENGLISH_FILLER = [
    "The weather stayed mild, and the roads were dry.",
    "Prices of wool rose a little at the spring market.",
    "{N} travelled on to {P} the next morning.",
    "A letter from {P} arrived late, as usual.",
    "The council met twice and adjourned without a decision.",
    "Children gathered chestnuts below the church.",
    "There was talk of a new road, but no money for it.",
    "The mill ground rye for the neighbouring farms.",
    "{N} paid the rent of the barn in advance.",
    "The ferry ran on Sundays only.",
    "Nobody remembered a winter as short as this one.",
    "The clock struck nine when the guests went home.",
    "Old {N} told the story of the wolves again.",
    "The bridge was painted grey.",
    "A report on the state of the wells is expected.",
    "The doctor came once a week.",
    "Bread was dear, and beer was cheap.",
    "The library lends three volumes to each reader.",
    "Soldiers marched through without stopping.",
    "The teacher asked for chalk and a stove.",
    "Timber for the station was ordered from {P}.",
    "{N} took the minutes.",
    "The quarry sent stone by cart.",
    "The innkeeper served trout.",
]
GERMAN_FILLER = [
    "Das Wetter blieb mild, und die Wege waren trocken.",
    "Die Preise der Wolle stiegen im Frühjahr ein wenig.",
    "{N} reiste am nächsten Morgen weiter nach {P}.",
    "Ein Brief aus {P} kam spät, wie gewohnt.",
    "Der Rat tagte zweimal ohne Beschluss.",
    "Die Kinder sammelten Kastanien unter der Kirche.",
    "Man sprach von einer neuen Straße, doch es fehlte Geld.",
    "Die Mühle mahlte Roggen für die Höfe.",
    "{N} zahlte die Pacht im Voraus.",
    "Der alte {N} erzählte wieder von den Wölfen.",
    "Der Arzt kam einmal in der Woche.",
    "Das Brot war teuer und das Bier billig.",
    "Soldaten zogen ohne Halt vorüber.",
    "Die Brücke wurde grau gestrichen.",
]
FRENCH_FILLER = [
    "Le temps resta doux, et les chemins étaient secs.",
    "Le prix de la laine monta un peu au printemps.",
    "{N} partit le lendemain pour {P}.",
    "Une lettre de {P} arriva en retard, comme toujours.",
    "Le conseil se réunit deux fois sans décision.",
    "Les enfants ramassaient des châtaignes sous l'église.",
    "On parla d'une route neuve, mais l'argent manquait.",
    "Le moulin broyait le seigle des fermes.",
    "{N} paya le loyer d'avance.",
    "Le vieux {N} raconta encore l'histoire des loups.",
    "Le médecin venait une fois par semaine.",
    "Le pain était cher et la bière bon marché.",
    "Des soldats passèrent sans s'arrêter.",
    "Le pont fut peint en gris.",
]

PLACES = [
    "Varnholm",
    "Estrup",
    "Quillby",
    "Torvald",
    "Maresk",
    "Dunmere",
    "Ostley",
    "Havrick",
    "Pellau",
    "Brandt",
    "Corvey",
    "Lindau",
    "Tressel",
    "Wickford",
    "Yarrow",
    "Zellin",
    "Ambery",
    "Kolding",
    "Fennick",
    "Garlow",
    "Hestra",
    "Ivelow",
    "Jarnac",
    "Krona",
    "Lowick",
    "Medlar",
    "Norwick",
    "Orla",
    "Passau",
    "Rethel",
    "Sundby",
    "Trave",
    "Ulmen",
    "Vessel",
    "Wenlock",
    "Aldra",
]
PERSONS = [
    "Brackett",
    "Ohlsen",
    "Quist",
    "Tamsin",
    "Vogler",
    "Merrow",
    "Achard",
    "Berling",
    "Corbin",
    "Dahl",
    "Ekman",
    "Farrow",
    "Gossard",
    "Hallam",
    "Imrie",
    "Jessop",
    "Kestrel",
    "Lorimer",
    "Maddox",
    "Noakes",
    "Oakden",
    "Pascoe",
    "Rendal",
    "Sorley",
    "Thorne",
    "Umber",
    "Vasey",
    "Wadlow",
    "Yeo",
    "Zander",
]
SECTIONS = {
    "english": ["Town and council", "Trade", "Winter", "Notes of the visitor", "Incidents", "Households"],
    "german": ["Stadt und Rat", "Handel", "Winter", "Notizen", "Vorfälle", "Haushalte"],
    "french": ["Ville et conseil", "Commerce", "Hiver", "Notes", "Incidents", "Foyers"],
}
TITLES = {"english": "Report on {P}", "german": "Bericht über {P}", "french": "Rapport sur {P}"}

# (verb of the name, its other form, a synonym)
VERBS = [
    ("compute", "computed", "work out"),
    ("parse", "parsed", "interpret"),
    ("validate", "validation", "check"),
    ("render", "rendered", "draw"),
    ("load", "loading", "read in"),
    ("remove", "removal", "delete"),
    ("merge", "merging", "combine"),
    ("encode", "encoded", "serialise"),
    ("schedule", "scheduled", "plan"),
    ("resolve", "resolution", "look up"),
    ("normalize", "normalized", "clean up"),
    ("estimate", "estimation", "guess"),
]
# (words of the name, other words)
THINGS = [
    (("retry", "delay"), "how long to wait before trying again"),
    (("user", "session"), "the login of somebody"),
    (("cache", "entry"), "a remembered value"),
    (("invoice", "total"), "the sum of a bill"),
    (("http2", "frame"), "a unit of the web protocol"),
    (("sha256", "digest"), "the checksum"),
    (("page", "token"), "the cursor of a listing"),
    (("tax", "rate"), "the percentage for the treasury"),
    (("utf8", "header"), "the first bytes of the text"),
    (("socket", "timeout"), "the patience of a connection"),
    (("queue", "length"), "the number of waiting jobs"),
    (("config", "path"), "the settings file"),
    (("order", "line"), "an item of a purchase"),
    (("access", "policy"), "the permission rules"),
    (("image", "thumbnail"), "the small preview picture"),
    (("disk", "quota"), "the storage allowance"),
    (("route", "table"), "the map of addresses"),
    (("lease", "expiry"), "the end of a reservation"),
    (("batch", "size"), "how many go together"),
    (("column", "type"), "the kind of a field"),
    (("memory", "limit"), "the most RAM"),
    (("event", "stream"), "the flow of notifications"),
    (("crc32", "checksum"), "the error-detecting sum"),
    (("ipv4", "address"), "the number of a host"),
]

DEPARTMENTS = [
    "accounting",
    "purchasing",
    "logistics",
    "maintenance",
    "marketing",
    "laboratory",
    "security",
    "training",
]
ROLES = ["manager", "clerk", "engineer", "assistant", "inspector", "driver", "analyst"]
GOODS = [
    "valve",
    "hinge",
    "gasket",
    "bearing",
    "bolt",
    "bracket",
    "filter",
    "hose",
    "pulley",
    "spring",
    "washer",
    "lever",
]
MATERIALS = ["brass", "steel", "copper", "nylon", "rubber", "zinc", "oak", "ceramic"]
COLOURS = ["grey", "blue", "black", "white", "red", "green"]
CARGOES = ["timber", "salt", "grain", "coal", "cement", "sugar", "wool", "machinery"]
MONTHS = ["January", "March", "April", "June", "July", "September", "October", "December"]
