//! What the conversations are about: small worlds of topics, with what there is to say about each.
//!
//! All topics of one category take the same grammatical number, so that every sentence of the category fits each of
//! them. Sentences are written such that they stay grammatical when their commas are left out.

use super::split::PerSplit;

/// One thing to talk about.
#[derive(Debug)]
pub(super) struct Topic {
    /// The noun phrase that stands for `{topic}`.
    pub(super) name: &'static str,
    /// Two adjectives, `{a}` and `{b}`, that are true of it.
    adjectives: [&'static str; 2],
    /// `{phrase}`: where, when or with what; each category's sentences say which.
    phrase: &'static str,
}

/// Topics that share their sentences.
#[derive(Debug)]
pub(super) struct Category {
    /// The word for all of them, as it stands in a title.
    pub(super) title: &'static str,
    /// Whether the topics are plural ("they are") or singular ("it is").
    plural: bool,
    /// The topics of each split.
    pub(super) topics: PerSplit<&'static [Topic]>,
    /// First sentences of a description.
    pub(super) describe: [&'static str; 3],
    /// Sentences with `{phrase}` that can follow any first sentence.
    pub(super) details: [&'static str; 4],
    /// Sentences without slots that can follow any first sentence.
    pub(super) remarks: [&'static str; 3],
    /// Requests for advice.
    pub(super) advice_requests: PerSplit<&'static [&'static str]>,
    /// First sentences of advice.
    pub(super) advice: [&'static str; 3],
}

impl Category {
    /// Puts a topic of this category into a sentence. Slots: `{topic}`, `{Topic}`, `{a}`, `{b}`, `{phrase}`, and for
    /// sentences that serve both numbers `{it}`, `{is}` and the verb ending `{s}`.
    pub(super) fn fill(&self, sentence: &str, topic: &Topic) -> String {
        let (it, is, s) = if self.plural { ("they", "are", "") } else { ("it", "is", "s") };
        let [a, b] = topic.adjectives;
        sentence
            .replace("{topic}", topic.name)
            .replace("{Topic}", &capitalised(topic.name))
            .replace("{a}", a)
            .replace("{b}", b)
            .replace("{phrase}", topic.phrase)
            .replace("{it}", it)
            .replace("{is}", is)
            .replace("{s}", s)
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

const fn topic(name: &'static str, a: &'static str, b: &'static str, phrase: &'static str) -> Topic {
    Topic { name, adjectives: [a, b], phrase }
}

/// All categories.
pub(super) const CATEGORIES: [Category; 12] = [
    Category {
        title: "Food",
        plural: false,
        topics: PerSplit {
            train: &[
                topic("soup", "hot", "tasty", "on a cold day"),
                topic("bread", "fresh", "soft", "in the morning"),
                topic("rice", "light", "plain", "with a little salt"),
                topic("pizza", "hot", "salty", "with good friends"),
                topic("cake", "sweet", "soft", "at a party"),
                topic("cheese", "rich", "salty", "with some fruit"),
                topic("honey", "sweet", "thick", "with warm milk"),
                topic("salad", "fresh", "light", "on a hot day"),
            ],
            validation: &[
                topic("pasta", "hot", "plain", "with good friends"),
                topic("jam", "sweet", "thick", "in the morning"),
            ],
            test: &[
                topic("toast", "hot", "plain", "in the morning"),
                topic("pie", "sweet", "soft", "at a party"),
                topic("chocolate", "sweet", "rich", "with warm milk"),
            ],
        },
        describe: [
            "{Topic} is {a} and {b}, and almost everyone knows it.",
            "When it is made with care, {topic} is {a} and {b}.",
            "{Topic} is simple food, but it is {a} and {b}.",
        ],
        details: [
            "It is very good {phrase}.",
            "I like it best {phrase}.",
            "Many families eat it {phrase}, and nobody stays hungry.",
            "Try it {phrase}, and share it with a friend.",
        ],
        remarks: [
            "It does not cost much, so you can have it often.",
            "A small plate of it is enough.",
            "Children ask for it all the time, and so do I.",
        ],
        advice_requests: PerSplit {
            train: &["How should I serve {topic}?", "What goes well with {topic}?"],
            validation: &["What should I serve with {topic}?"],
            test: &["What is good to have with {topic}?"],
        },
        advice: [
            "A cup of tea goes well with it, and so does cold milk.",
            "Keep it simple, and add a little fruit.",
            "Put it on a nice plate, and serve it with a smile.",
        ],
    },
    Category {
        title: "Fruit and Vegetables",
        plural: true,
        topics: PerSplit {
            train: &[
                topic("apples", "red", "sweet", "in autumn"),
                topic("pears", "soft", "sweet", "with some cheese"),
                topic("plums", "dark", "sweet", "in a cake"),
                topic("carrots", "fresh", "cheap", "in a soup"),
                topic("beans", "green", "healthy", "with rice"),
                topic("potatoes", "plain", "cheap", "with a little salt"),
                topic("onions", "strong", "cheap", "in a soup"),
                topic("tomatoes", "red", "fresh", "in a salad"),
            ],
            validation: &[
                topic("grapes", "small", "sweet", "with some cheese"),
                topic("peas", "green", "small", "with rice"),
            ],
            test: &[
                topic("lemons", "fresh", "strong", "in a cake"),
                topic("cherries", "dark", "sweet", "in a cake"),
                topic("peppers", "red", "healthy", "in a salad"),
            ],
        },
        describe: [
            "{Topic} are {a} and {b}, and you can buy them in every shop.",
            "At the market, look for {topic} that are {a} and {b}.",
            "Good {topic} are {a}, and they are often {b} too.",
        ],
        details: [
            "They taste best {phrase}.",
            "We often have them {phrase}.",
            "Try them {phrase}, and you will be happy.",
            "My mother serves them {phrase}.",
        ],
        remarks: [
            "They are good for you, and they keep for days.",
            "You can grow them at home, if you have a garden.",
            "Wash them well before you eat them.",
        ],
        advice_requests: PerSplit {
            train: &["How do I keep {topic} fresh?", "Where should I keep {topic}?"],
            validation: &["How should I keep {topic} at home?"],
            test: &["What is a good way to keep {topic}?"],
        },
        advice: [
            "Keep them in a cool place, away from the sun.",
            "Put them in a paper bag, and eat them within a week.",
            "Do not wash them too early, because water makes them soft.",
        ],
    },
    Category {
        title: "Animals",
        plural: true,
        topics: PerSplit {
            train: &[
                topic("cats", "quiet", "clever", "close to people"),
                topic("dogs", "friendly", "lively", "in a family home"),
                topic("horses", "strong", "fast", "on a farm"),
                topic("birds", "small", "lively", "in tall trees"),
                topic("cows", "big", "calm", "in green fields"),
                topic("ducks", "friendly", "loud", "near the water"),
                topic("rabbits", "soft", "fast", "under the ground"),
                topic("sheep", "calm", "soft", "on quiet hills"),
            ],
            validation: &[
                topic("goats", "clever", "lively", "on quiet hills"),
                topic("frogs", "small", "loud", "near the water"),
            ],
            test: &[
                topic("foxes", "clever", "fast", "under the ground"),
                topic("bears", "big", "strong", "in the forest"),
                topic("mice", "small", "quiet", "close to people"),
            ],
        },
        describe: [
            "{Topic} are {a} and {b}, and children love to watch them.",
            "Most of the time, {topic} are {a} and {b}.",
            "{Topic} are {a} animals, and they are very {b}.",
        ],
        details: [
            "They live {phrase}.",
            "You can often see them {phrase}.",
            "They sleep {phrase}, and they wake up early.",
            "They feel safe {phrase}, so do not scare them.",
        ],
        remarks: [
            "In spring, they look after their young.",
            "They know their friends, and they never forget them.",
            "My sister draws them very well.",
        ],
        advice_requests: PerSplit {
            train: &["How do I take care of {topic}?", "What do {topic} need?"],
            validation: &["How should people care for {topic}?"],
            test: &["How can I look after {topic}?"],
        },
        advice: [
            "Give them clean water, and keep them warm at night.",
            "They need good food, and they need time to rest.",
            "Be calm and slow, because loud noise scares them.",
        ],
    },
    Category {
        title: "Weather",
        plural: false,
        topics: PerSplit {
            train: &[
                topic("rain", "wet", "gray", "in spring"),
                topic("snow", "white", "cold", "in winter"),
                topic("wind", "strong", "fresh", "in autumn"),
                topic("sunshine", "warm", "bright", "in summer"),
                topic("fog", "gray", "quiet", "early in the day"),
                topic("thunder", "loud", "wild", "on a hot night"),
                topic("ice", "hard", "cold", "in winter"),
                topic("a clear sky", "blue", "bright", "in summer"),
            ],
            validation: &[
                topic("frost", "white", "cold", "early in the day"),
                topic("a breeze", "light", "fresh", "in summer"),
            ],
            test: &[
                topic("a storm", "loud", "wild", "in autumn"),
                topic("a rainbow", "bright", "light", "in spring"),
                topic("hail", "hard", "white", "on a hot night"),
            ],
        },
        describe: [
            "{Topic} is {a} and {b}, and it can change a whole day.",
            "After a dull week, {topic} feels {a} and {b}.",
            "{Topic} is often {a}, and sometimes it is {b} too.",
        ],
        details: [
            "It comes most often {phrase}.",
            "You can enjoy it {phrase}, from a warm room.",
            "It may come {phrase}, so look out of the window.",
            "Some years, we see a lot of it {phrase}.",
        ],
        remarks: [
            "People talk about it all day.",
            "It can last for hours, or it can be over soon.",
            "No two days are the same, and that is good.",
        ],
        advice_requests: PerSplit {
            train: &["How should I get ready for {topic}?", "What should I do on a day with {topic}?"],
            validation: &["What do I need on a day with {topic}?"],
            test: &["How can I get ready for {topic}?"],
        },
        advice: [
            "Take a good coat, and wear strong shoes.",
            "Look outside first, and then choose your clothes.",
            "Stay calm, and plan a little more time for the road.",
        ],
    },
    Category {
        title: "Places",
        plural: false,
        topics: PerSplit {
            train: &[
                topic("the park", "green", "quiet", "on a sunny morning"),
                topic("the beach", "sunny", "wide", "in summer"),
                topic("the zoo", "busy", "loud", "with small children"),
                topic("the museum", "big", "quiet", "on a cold day"),
                topic("the market", "busy", "cheap", "on the weekend"),
                topic("the library", "quiet", "warm", "after school"),
                topic("the forest", "green", "cool", "on a hot day"),
                topic("the river", "clear", "wide", "in spring"),
            ],
            validation: &[
                topic("the lake", "calm", "clear", "in summer"),
                topic("the castle", "old", "big", "with small children"),
            ],
            test: &[
                topic("the island", "small", "sunny", "in summer"),
                topic("the theater", "old", "warm", "on the weekend"),
                topic("the harbor", "busy", "wide", "on a sunny morning"),
            ],
        },
        describe: [
            "{Topic} is {a} and {b}, and many people go there.",
            "On most days, {topic} is {a} and {b}.",
            "{Topic} is not far away, and it is {a} and {b}.",
        ],
        details: [
            "I like to go there {phrase}.",
            "It is at its best {phrase}.",
            "Go there {phrase}, and take your time.",
            "You can meet nice people there {phrase}.",
        ],
        remarks: [
            "There is always something to see, even if you stay all day.",
            "My family has been there many times.",
            "It is easy to find, and you can walk there.",
        ],
        advice_requests: PerSplit {
            train: &["What can we do at {topic}?", "How should we plan a trip to {topic}?"],
            validation: &["What should we plan for a day at {topic}?"],
            test: &["What is there to do at {topic}?"],
        },
        advice: [
            "Bring some food, and look for a good place to sit.",
            "Go early in the day, because it gets busy later.",
            "Take a slow walk first, and then have some tea.",
        ],
    },
    Category {
        title: "Sports and Games",
        plural: false,
        topics: PerSplit {
            train: &[
                topic("football", "fast", "fun", "with a good team"),
                topic("tennis", "fast", "hard", "on a sunny day"),
                topic("running", "healthy", "simple", "early in the day"),
                topic("swimming", "healthy", "fun", "on a hot day"),
                topic("chess", "slow", "clever", "in a quiet room"),
                topic("dancing", "lively", "fun", "at a party"),
                topic("skating", "fast", "light", "in winter"),
                topic("hiking", "healthy", "slow", "with good friends"),
            ],
            validation: &[
                topic("climbing", "hard", "fun", "with good friends"),
                topic("golf", "slow", "calm", "on a sunny day"),
            ],
            test: &[
                topic("cycling", "healthy", "fast", "on a sunny day"),
                topic("baseball", "lively", "fun", "with a good team"),
                topic("sailing", "calm", "fun", "in summer"),
            ],
        },
        describe: [
            "{Topic} is {a} and {b}, and you can start at any age.",
            "For most people, {topic} is {a} and {b}.",
            "Once you know the rules, {topic} is {a} and {b}.",
        ],
        details: [
            "It is best {phrase}.",
            "Many people enjoy it {phrase}.",
            "Try it {phrase}, and you will feel good.",
            "We often meet for it {phrase}.",
        ],
        remarks: [
            "It is good for you, and it does not cost much.",
            "You learn something new each time.",
            "My brother is very good at it, but I am not.",
        ],
        advice_requests: PerSplit {
            train: &["How do I start with {topic}?", "How can I get better at {topic}?"],
            validation: &["How should I start to learn {topic}?"],
            test: &["What is the best way to learn {topic}?"],
        },
        advice: [
            "Start slowly, and practice a little every day.",
            "Find a good teacher, and do not give up too soon.",
            "Ask a friend to join you, because it is more fun together.",
        ],
    },
    Category {
        title: "School",
        plural: false,
        topics: PerSplit {
            train: &[
                topic("math", "clear", "useful", "step by step"),
                topic("history", "long", "rich", "with a good book"),
                topic("art", "bright", "fun", "with good friends"),
                topic("science", "clear", "fun", "with a good team"),
                topic("reading", "quiet", "useful", "in a warm room"),
                topic("writing", "slow", "useful", "with a sharp pencil"),
                topic("geography", "wide", "useful", "with a big map"),
                topic("spelling", "hard", "useful", "step by step"),
            ],
            validation: &[
                topic("drawing", "quiet", "fun", "with a sharp pencil"),
                topic("grammar", "hard", "useful", "step by step"),
            ],
            test: &[
                topic("physics", "hard", "clear", "step by step"),
                topic("poetry", "quiet", "rich", "with a good book"),
                topic("biology", "rich", "useful", "with a good team"),
            ],
        },
        describe: [
            "{Topic} is {a} and {b}, and it is part of every school.",
            "In class, {topic} is {a} and {b}.",
            "With some help, {topic} can be {a} and {b}.",
        ],
        details: [
            "You learn it best {phrase}.",
            "I like to study it {phrase}.",
            "Work on it {phrase}, and ask questions.",
            "Some children study it {phrase}, and some learn it in a game.",
        ],
        remarks: [
            "It helps you later, even if it takes time.",
            "Our teacher makes it easy for everyone.",
            "It is never too late to learn it, so begin today.",
        ],
        advice_requests: PerSplit {
            train: &["How do I get good at {topic}?", "How should I study for {topic}?"],
            validation: &["What should I do to get better in {topic}?"],
            test: &["How can I do well in {topic}?"],
        },
        advice: [
            "Do a little work each day, and write down what you learn.",
            "Read one page at a time, and then take a short rest.",
            "Ask your teacher early, because small questions grow.",
        ],
    },
    Category {
        title: "People at Work",
        plural: true,
        topics: PerSplit {
            train: &[
                topic("teachers", "kind", "patient", "in a school"),
                topic("doctors", "careful", "busy", "in a big hospital"),
                topic("farmers", "strong", "busy", "on a farm"),
                topic("bakers", "busy", "friendly", "in a warm kitchen"),
                topic("drivers", "careful", "patient", "on the road"),
                topic("nurses", "kind", "careful", "in a big hospital"),
                topic("painters", "quiet", "clever", "in a bright room"),
                topic("builders", "strong", "clever", "in all weather"),
            ],
            validation: &[
                topic("pilots", "calm", "careful", "high above the ground"),
                topic("cooks", "busy", "friendly", "in a warm kitchen"),
            ],
            test: &[
                topic("dentists", "careful", "calm", "in a bright room"),
                topic("singers", "lively", "friendly", "in a big hall"),
                topic("gardeners", "patient", "strong", "in all weather"),
            ],
        },
        describe: [
            "{Topic} are {a} and {b}, and we need them every day.",
            "On a normal day, {topic} are {a} and {b}.",
            "Good {topic} are {a}, and the best ones are {b} too.",
        ],
        details: [
            "They work {phrase}.",
            "You can meet them {phrase}.",
            "They start early {phrase}, and they often stay late.",
            "Many of them like to work {phrase}.",
        ],
        remarks: [
            "Be nice to them, because they work hard.",
            "They help other people every week.",
            "My uncle is one of them, and he loves his work.",
        ],
        advice_requests: PerSplit {
            train: &["How do people become {topic}?", "What must {topic} learn?"],
            validation: &["What should {topic} learn first?"],
            test: &["What do {topic} need to learn?"],
        },
        advice: [
            "They go to school first, and then they practice for years.",
            "They learn to listen, and they learn to plan their time.",
            "They start as helpers, and they get better every year.",
        ],
    },
    Category {
        title: "Travel",
        plural: true,
        topics: PerSplit {
            train: &[
                topic("trains", "fast", "safe", "for a long trip"),
                topic("buses", "slow", "cheap", "for a short trip"),
                topic("bikes", "cheap", "light", "in the city"),
                topic("boats", "small", "calm", "on the water"),
                topic("cars", "fast", "useful", "with a big family"),
                topic("planes", "fast", "loud", "for a long trip"),
                topic("trucks", "big", "strong", "on the road"),
                topic("ships", "big", "slow", "on the water"),
            ],
            validation: &[
                topic("trams", "quiet", "cheap", "in the city"),
                topic("taxis", "fast", "useful", "for a short trip"),
            ],
            test: &[
                topic("scooters", "light", "cheap", "in the city"),
                topic("vans", "big", "useful", "with a big family"),
                topic("ferries", "slow", "safe", "on the water"),
            ],
        },
        describe: [
            "{Topic} are {a} and {b}, and people use them all over the world.",
            "On a busy day, {topic} are {a} and {b}.",
            "{Topic} are {a}, and most of them are {b} too.",
        ],
        details: [
            "They are a good choice {phrase}.",
            "I would use them {phrase}.",
            "Choose them {phrase}, and enjoy the view.",
            "My family uses them {phrase}.",
        ],
        remarks: [
            "They take you far, and they bring you home again.",
            "Children like to look at them.",
            "They were slow at first, but now they are better.",
        ],
        advice_requests: PerSplit {
            train: &["How do I stay safe with {topic}?", "What should I know about a trip with {topic}?"],
            validation: &["How should I plan a trip with {topic}?"],
            test: &["What is the safe way to use {topic}?"],
        },
        advice: [
            "Look left and right first, and never run.",
            "Plan your trip early, and leave some time to rest.",
            "Check the weather first, because rain makes everything slow.",
        ],
    },
    Category {
        title: "Music",
        plural: false,
        topics: PerSplit {
            train: &[
                topic("the piano", "rich", "clear", "in a quiet room"),
                topic("the guitar", "light", "warm", "with good friends"),
                topic("the drum", "loud", "simple", "in a band"),
                topic("the violin", "bright", "clear", "on a stage"),
                topic("the flute", "light", "clear", "in a quiet room"),
                topic("the trumpet", "loud", "bright", "in a band"),
                topic("the harp", "soft", "rich", "on a stage"),
                topic("the organ", "loud", "rich", "in a big hall"),
            ],
            validation: &[
                topic("the banjo", "bright", "lively", "in a band"),
                topic("the horn", "loud", "warm", "in a big hall"),
            ],
            test: &[
                topic("the cello", "soft", "rich", "on a stage"),
                topic("the clarinet", "warm", "clear", "in a quiet room"),
                topic("the tuba", "loud", "warm", "in a band"),
            ],
        },
        describe: [
            "The sound of {topic} is {a} and {b}, and it can fill a room.",
            "In good hands, {topic} is {a} and {b}.",
            "{Topic} is hard to learn, but the sound is {a} and {b}.",
        ],
        details: [
            "It is best {phrase}.",
            "People love to hear it {phrase}.",
            "I once heard it {phrase}, and I still think about it.",
            "Play it {phrase}, and listen to every note.",
        ],
        remarks: [
            "It takes time to learn, so be patient.",
            "Old and young people play it together.",
            "My aunt plays it well, and she teaches me.",
        ],
        advice_requests: PerSplit {
            train: &["How do I learn {topic}?", "How should I practice {topic}?"],
            validation: &["How should I start to play {topic}?"],
            test: &["How can I play {topic} well?"],
        },
        advice: [
            "Practice a little every day, and start with easy songs.",
            "Sit up straight, and play the first notes slowly.",
            "Find a good teacher, because bad habits stay.",
        ],
    },
    Category {
        title: "Clothes",
        plural: true,
        topics: PerSplit {
            train: &[
                topic("hats", "light", "useful", "on a sunny day"),
                topic("coats", "warm", "long", "in winter"),
                topic("gloves", "warm", "soft", "on a cold day"),
                topic("boots", "strong", "useful", "in all weather"),
                topic("socks", "soft", "cheap", "in winter"),
                topic("shirts", "light", "clean", "at work"),
                topic("scarves", "long", "warm", "on a cold day"),
                topic("shoes", "strong", "clean", "on a long walk"),
            ],
            validation: &[
                topic("jackets", "warm", "light", "in autumn"),
                topic("mittens", "soft", "warm", "in winter"),
            ],
            test: &[
                topic("sweaters", "warm", "soft", "on a cold day"),
                topic("sandals", "light", "cheap", "in summer"),
                topic("belts", "strong", "useful", "at work"),
            ],
        },
        describe: [
            "{Topic} are {a} and {b}, and they come in many colors.",
            "If they fit well, {topic} are {a} and {b}.",
            "Good {topic} are {a}, and they should be {b} too.",
        ],
        details: [
            "I wear them {phrase}.",
            "They are nice to have {phrase}.",
            "Wear them {phrase}, and you will be glad.",
            "Most people wear them {phrase}.",
        ],
        remarks: [
            "They last for years, if you treat them well.",
            "You can find them in every big shop.",
            "They make a good gift, and they do not cost much.",
        ],
        advice_requests: PerSplit {
            train: &["How do I choose {topic}?", "What should I know before I buy {topic}?"],
            validation: &["How should I choose new {topic}?"],
            test: &["What is the best way to buy {topic}?"],
        },
        advice: [
            "Try them on first, and look in the mirror.",
            "Do not take the cheap ones, because they wear out fast.",
            "Choose a color you like, and check the size.",
        ],
    },
    Category {
        title: "Plants",
        plural: true,
        topics: PerSplit {
            train: &[
                topic("roses", "red", "soft", "in a sunny garden"),
                topic("tulips", "bright", "tall", "in spring"),
                topic("daisies", "small", "white", "in green fields"),
                topic("oaks", "old", "strong", "on quiet hills"),
                topic("pines", "tall", "green", "in the mountains"),
                topic("ferns", "green", "soft", "in the shade"),
                topic("herbs", "fresh", "useful", "in small pots"),
                topic("vines", "long", "green", "in a sunny garden"),
            ],
            validation: &[
                topic("lilies", "white", "tall", "near the water"),
                topic("maples", "red", "strong", "on quiet hills"),
            ],
            test: &[
                topic("willows", "old", "tall", "near the water"),
                topic("sunflowers", "tall", "bright", "in a sunny garden"),
                topic("violets", "small", "soft", "in the shade"),
            ],
        },
        describe: [
            "{Topic} are {a} and {b}, and they make a place look nice.",
            "When the days get long, {topic} are {a} and {b}.",
            "From far away, {topic} look {a} and {b}.",
        ],
        details: [
            "They grow well {phrase}.",
            "You find them {phrase}.",
            "Plant them {phrase}, and give them time.",
            "I like to see them {phrase}.",
        ],
        remarks: [
            "They need light and water, but not much more.",
            "Bees and other small animals love them.",
            "Some of them live for years, if you let them grow.",
        ],
        advice_requests: PerSplit {
            train: &["How do I grow {topic}?", "What do I need to plant {topic}?"],
            validation: &["How should I plant {topic}?"],
            test: &["What is the best way to grow {topic}?"],
        },
        advice: [
            "Give them water twice a week, and keep the ground soft.",
            "Choose a good place, and dig a deep hole.",
            "Start in spring, because the ground is warm then.",
        ],
    },
];
