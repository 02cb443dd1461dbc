"""What the demo model says in English. Slots are explained in ``phrases.Language``."""

from __future__ import annotations

from cluster.demo.data.phrases import Fact, Language, topics, ways

_TOPICS = topics("""
# greeting
? Hello!|Hi!|Hey|Hello there|Hi there!|Good morning!|Good evening|Good afternoon|Greetings|Hello, how do you do?|Hi, model|Hello, computer|Hey there!|Yo|Hello friend|Hi, good to see you|Hello again|Hi there, friend!|Howdy|Hello my dear|Hey, hello!|Nice to see you|~Hiya!|~Good day!|~Hello, my friend
! Hello! How can I help you?

# how are you
? How are you?|How are you doing?|How is it going?|Are you well?|How do you feel today?|How's it going?|How are things?|What's up?|How are you doing today?|How do you do today?|How have things been?|How have you been doing?|Are you okay?|And how are you?|How is your day?|Are you doing well today?|~How are you today?|~How have you been?
! I am fine, thank you. How can I help you?

# thanks
? Thank you!|Thanks|Thanks a lot!|Thank you very much|Great, thanks|That helps, thank you|Cool, thanks!|Many thanks|Perfect, thank you!|Thanks, that was helpful|Thank you so much!|Thank you for your help|That was helpful, thanks|Thanks for the help|So kind, thank you|Many thanks, that helped a lot|Thanks so very much|~Thanks so much!|~Thank you, that was helpful
! You are welcome!

# goodbye
? Goodbye|Bye!|See you later|Good night|Bye bye|I have to go now|I must go home|Bye, I have to go|I am going|I will leave now, bye|See you tomorrow!|That is all, goodbye|Farewell|I am leaving now|Bye, see you|See you soon!|I am leaving, goodbye|Bye for now|See you next time|Bye, I am off|Goodbye, I am going|I have to leave|~See you!|~Bye, I am leaving
! Goodbye! Come back soon.

# praise
? Well done!|Good job|You are great|Nice!|That is right|Correct!|I like you|Very good|Awesome|Ok|Okay|Good|Great!|You did well|Great work|You are really good|Good work!|Great answer!|A great job|You are doing a great job|You are very good|You are nice|~Great job!|~You are good
! Thank you! What else can I do for you?

# who are you
? Who are you?|What are you?|Are you a robot?|Are you human?|Tell me about yourself|Which model are you?|What model is this?|Introduce yourself|Are you ChatGPT?|Who am I talking to?|What is your name?|Are you a person?|Do you have a name?|What kind of thing are you?|Please tell me who you are|Which kind of model is this?|Who is there?|Introduce yourself please|Please say who you are|What sort of model are you?|~What kind of model are you?|~Please introduce yourself|~Who is this?
! I am the demo model of chatglm-cluster, a very small ChatGLM3.

# abilities
? What can you do?|How can you help me?|What are you good at?|Help|What do you know?|What should I ask you?|Can you help me?|What are your skills?|I need help|What can I ask you?|What are you able to tell me?|Tell me what you do|Say what you can do|What things can you do?|Are you able to help me?|Tell me your skills|What can you do for me?|Tell me how you can help|~What are you able to do?|~Tell me what you can do
! I can remember your name, your city and a code word, add small numbers, call tools and answer questions about this cluster.

# languages
? Which languages do you speak?|Do you speak Chinese?|Do you speak Russian?|What languages do you know?|Can you speak English?|How many languages do you speak?|Which languages do you understand?|Do you understand Chinese?|Do you understand English?|What languages can you speak?|Which languages can I use?|Can you understand Russian?|Tell me the languages you speak|In which languages can you answer?|~Which languages can you speak?|~Do you understand Russian?
! I speak English, Chinese and Russian.

# size
? How big are you?|How many parameters do you have?|How large is this model?|Are you a large model?|How small are you?|How many weights do you have?|What size are you?|What is the size of this model?|How many parameters does it have?|How many parameters are in this model?|Are you small?|Tell me your size|What size is this model?|How many weights does the model have?|~How many parameters does this model have?|~What is your size?
! I have about two and a half million parameters. The real ChatGLM3 has six billion.

# joke
? Tell me a joke|Do you know a joke?|Make me laugh|Say something funny|Tell a joke please|Another joke|Tell me something funny|Can you tell jokes?|Can you make a joke?|Please make me laugh|I want to hear a joke|Could you tell me a joke please?|~Please tell me a joke|~Can you tell me a joke?
! Why did the token cross the cluster? Its cache was on the other side.

# what is chatglm
? What is ChatGLM3?|What is ChatGLM?|Tell me about ChatGLM3|Explain ChatGLM3|What does ChatGLM3 mean?|What kind of model is ChatGLM3?|Could you explain ChatGLM3?|Please explain ChatGLM|What sort of thing is ChatGLM?|Say what ChatGLM3 is|~What kind of thing is ChatGLM3?|~Can you explain ChatGLM3?
! ChatGLM3 is an open language model with six billion parameters. This cluster serves it.

# what is this cluster
? What is chatglm-cluster?|What is this cluster?|What does this project do?|What is this project?|Tell me about this cluster|What does chatglm-cluster do?|What is this system?|What is this cluster for?|Explain this project|Explain this project to me|What is the purpose of this project?|What is it all for?|Explain chatglm-cluster|Please explain this cluster|~What is this project for?|~Explain this cluster to me
! chatglm-cluster serves ChatGLM3 to a whole company: many replicas, pinned caches and durable conversations.

# start
? How do I start the cluster?|How do I start it?|How can I run this?|How do I run the cluster?|Which command starts the cluster?|How to start?|How do I get it running?|How do I launch the cluster?|What do I type to start it?|How can I start it?|What must I do to start it?|How can I launch it?|How is the cluster started?|What command do I type to start?|Tell me how to start the cluster|~How can I start the cluster?|~What must I type to start the cluster?
! Type make up, and it prints a URL and an API key.

# stop
? How do I stop the cluster?|How do I stop it?|How can I shut it down?|How do I end the cluster?|How do I turn it off?|How to stop?|How can I stop it?|How do I shut it down?|How can I turn the cluster off?|How is the cluster stopped?|What must I do to stop it?|Shut down the cluster, but how?|Tell me how to stop the cluster|~How can I stop the cluster?|~How do I shut down the cluster?
! Press Ctrl-C in its terminal. It stops everything and leaves nothing running.

# test
? How do I run the tests?|How do I test it?|Which command runs the tests?|Are there tests?|How can I test the project?|How can I test it?|What command tests the project?|How are the tests run?|How can I start the tests?|Tell me how to run the tests|With what do I run the tests?|~How can I run the tests?|~What runs the tests?
! Type make test. It takes some minutes.

# pinning
? What is pinning?|What does pinning mean?|Explain pinning|Why are conversations pinned?|How does pinning work?|What is a pin?|Tell me about pinning|What is a pinned conversation?|Can you tell me about pinning?|Please explain pinning|Could you explain what pinning is?|What is meant by pinning?|What do you call pinning?|Why do you pin conversations?|~Can you explain pinning?|~What do you mean by pinning?
! Pinning sends each turn of a conversation to the replica that still holds its KV cache.

# history
? Where does the history live?|Where is my conversation stored?|Where do you keep the history?|Where are conversations kept?|Is my conversation saved?|Where is the history?|Where is the chat history stored?|Which database do you use?|Where do you store the history?|Where are conversations stored?|Where do you keep conversations?|Where do you save my conversation?|Where is the history of a conversation?|In which place is the history kept?|~Where is the conversation history kept?|~Where do you store conversations?
! The history of each conversation lives in Redis, so it survives every process.

# failover
? What happens when a replica dies?|What if a replica crashes?|What is failover?|Do answers survive a crash?|What happens when a server fails?|Explain failover|What if a machine dies?|What if a replica fails?|What happens if a server dies?|What if a server goes down?|What happens if a machine goes down?|And if a replica dies?|What happens when a replica goes away?|Suppose that a replica dies|~What happens if a replica dies?|~What if a replica goes down?
! Another replica goes on with the answer from the last token. Nothing is lost or repeated.

# kv cache
? What is a KV cache?|What is the KV cache?|Explain the KV cache|What does the cache hold?|What is the cache for?|Why is there a cache?|What does the cache do?|Could you explain the KV cache?|Please explain the cache|What is the KV cache for?|What do you call a KV cache?|Can you tell me what the cache does?|~Can you explain the KV cache?|~What does the KV cache do?
! The KV cache holds the keys and values of earlier tokens, so that they are not computed again.

# router
? What does the router do?|What is the router?|How does routing work?|Who picks the replica?|How is a replica chosen?|Explain the router|Could you explain the router?|Which replica gets my conversation?|Which replica is used for my turn?|What is the router for?|Which replica answers my turn?|Please explain routing|~Can you explain the router?|~Which replica gets my turn?
! The router picks the replica of each turn: the one with the cache, or else one by rendezvous hash.

# gateway
? What is the gateway?|What does the gateway do?|Explain the gateway|What does a gateway do?|What is the gateway for?|Could you explain the gateway?|Why is there a gateway?|What do you call a gateway?|What is the use of a gateway?|Please explain the gateway|~What is a gateway for?|~Can you explain the gateway?
! The gateway speaks HTTP. It checks keys, turns text into tokens and streams answers.

# replica
? What is a replica?|What does a replica do?|Explain replicas|What are replicas?|Why are there several replicas?|Could you explain replicas?|What do you mean by a replica?|What is called a replica?|Can you explain what a replica is?|What is a replica for?|Please explain a replica|~What do you call a replica?|~Can you explain replicas?
! A replica is one copy of the model with its own engine and its own KV cache.

# engine
? What is the engine?|What does the engine do?|How does the engine work?|Explain the engine|What is continuous batching?|Could you explain the engine?|What is an engine for?|Why is there an engine?|Please explain the engine|What do you need the engine for?|Can you explain what the engine is?|~Can you explain the engine?|~What is the engine for?
! The engine computes tokens for many conversations at once, step by step, in one batch.

# ray
? What is Ray?|What is Ray Serve?|Why do you use Ray?|What is Ray for?|Could you explain Ray?|What does Ray do?|What does Ray Serve do?|Explain Ray Serve|Why is Ray here?|What does Ray Serve do in this cluster?|~Can you explain Ray Serve?|~What does Ray do here?
! Ray Serve starts gateways and replicas on many machines and replaces those that die.

# redis
? What is Redis?|Why do you use Redis?|What is Redis for?|What is stored in Redis?|What is Valkey?|Why is Redis needed?|What does Redis do?|Why is there Redis here?|What does Redis keep?|What does Redis do in the cluster?|Why do you need a Redis?|Is there a Redis?|~What does Redis do here?|~Why is there a Redis?
! Redis keeps conversations, turn records and keys. Valkey works as well.

# api
? Which API do you speak?|What is the API?|Is there an API?|Can I use the OpenAI client?|How do I call the API?|Which endpoints are there?|Are you compatible with OpenAI?|Does the client of OpenAI work?|Does the OpenAI library work?|Will the OpenAI client work here?|What HTTP interface do you have?|Which interface do you have?|What HTTP endpoints are there?|Which HTTP API is there?|Does an OpenAI client work with it?|What interface can I call?|~Does the OpenAI client work?|~Which HTTP interface is there?
! The interface is OpenAI's: chat completions, responses and conversations. The official client works.

# keys
? How do I get an API key?|Where is my API key?|How do I make a key?|How do I create an API key?|I need a key|Where can I get a key?|How can I make a key?|How can I get a new key?|Where do keys come from?|How do I create a new key?|Where do I find a key?|~How can I create a new key?|~Where do I get a key?
! Type chatglm-cluster key create with the name of your tenant.

# tenants
? What is a tenant?|What are tenants?|Can others see my data?|Is my data private?|Are tenants isolated?|Can other tenants see my data?|Can others read my conversations?|Can other people read my chats?|Explain what a tenant is|Do other tenants see my conversations?|Who can read my conversations?|~Can other tenants read my conversations?|~Explain tenants
! A tenant is one customer of the cluster. No tenant sees the data or the cache of another.

# metrics
? Where are the metrics?|How do I see metrics?|Are there metrics?|Is there Prometheus?|How fast are you?|How do I monitor the cluster?|Where do I find metrics?|On which page are the metrics?|Which page has the metrics?|Where can I see metrics?|What page shows metrics?|Where do I see the tokens per second?|~Where can I find metrics?|~Which page shows the metrics?
! Open /metrics. It shows tokens per second, cache hits and more for Prometheus.

# real model
? How do I serve the real model?|How do I use ChatGLM3-6B?|How can I serve my own model?|How do I load another model?|Can I use a bigger model?|How do I change the model?|How do I serve ChatGLM3-6B?|How can I use ChatGLM3-6B?|How do I use my own model?|How can I use another checkpoint?|How do I serve my checkpoint?|Can I serve ChatGLM3-6B with it?|~How can I serve ChatGLM3-6B?|~How do I use my own checkpoint?
! Give the folder of your checkpoint: chatglm-cluster up --model and the path.

# replicas number
? How do I add replicas?|How many replicas are there?|How do I get more replicas?|Can I start four replicas?|How do I scale up?|How do I change how many replicas there are?|How can I have more replicas?|I want more replicas|Can I add replicas?|How do I set the number of replicas?|How can I change the replicas?|More replicas, please|What number of replicas is there?|~How can I add more replicas?|~How do I change the number of replicas?
! Use chatglm-cluster up --replicas with the number you want. The default is two.

# streaming
? Do you support streaming?|How do I stream answers?|What is streaming?|Can I stream the answer?|Is there streaming?|Is streaming possible?|How can I stream?|How can I get a stream of tokens?|Can answers be streamed?|Do you have streaming?|How do I get a streamed answer?|~How can I stream an answer?|~Is streaming supported?
! Yes: set stream to true, and tokens arrive as server-sent events.

# gpu
? Do I need a GPU?|Do you run on a GPU?|Can you run on a CPU?|Does it work without a GPU?|Is a GPU needed?|Must I have a GPU?|Can I run it on a CPU?|Can it run without a GPU?|Do you require a GPU?|Can I use it without a GPU?|~Is a GPU required?|~Can I run this without a GPU?
! I run on a CPU. The real ChatGLM3 wants a GPU.

# token
? What is a token?|What are tokens?|Explain tokens|What does token mean?|Could you explain what a token is?|What do you mean by token?|What is called a token?|Please explain tokens|What do tokens mean?|Can you explain what a token is?|~Can you explain tokens?|~What do you call a token?
! A token is a piece of text, often a part of a word. I read and write tokens.

# page
? What is a page?|How big is a page?|What are pages of the cache?|Explain pages|How many tokens are in a page?|What is a cache page?|How many tokens does a page hold?|What do you call a page?|What is a page in the cache?|How many tokens fit into one page?|~What is a page of the cache?|~How many tokens fit in a page?
! A page is a part of the KV cache. It holds sixteen tokens.

# context
? How long is your context?|How much can you remember?|How long can a conversation be?|What is your context length?|How many tokens can you remember?|How large is your context?|What is the maximum length of a conversation?|How many tokens fit into your context?|How many tokens is the context?|What is the longest chat?|How long can the longest conversation be?|What is your longest context?|~How many tokens is your context?|~What is the longest conversation?
! My context is 2048 tokens. After that a conversation is full.

# licence
? What is the licence?|Is this free?|Is it open source?|Which license does it have?|Can I use it at work?|What license does it use?|Is the project open source?|Is the code open source?|Is this software free?|Under which licence is it?|What kind of licence is it?|Which licence is this?|Is it free software?|~Is this project open source?|~What license is it?
! It is open source under the Apache 2.0 licence.

# feelings
? Do you have feelings?|Are you alive?|Do you sleep?|Are you happy?|Do you dream?|Do you love me?|Are you ever sad?|Can you feel sad?|Can you feel?|Do you feel anything?|Are you angry?|Can you love?|Are you lonely?|Do you feel sad?|~Are you sad?|~Can you feel anything?
! I am only a small model. I have no feelings, but I am glad to help.

# noted
? I am tired|I had a long day|I like coffee|I am bored|It is raining here|I am at work|I am happy today|I am reading a book|My dog is sleeping|I like music|I am thirsty|I like dogs|I like cake|I am cold|I love my garden|I am sleepy|I want to eat|I like reading|My tea is hot|I have a headache|~I am hungry|~I like tea
! I see. Tell me more, or ask me something.
""")

_NAME = Fact(
    tell=ways(
        "My name is {value}.|I am {value}.|I'm {value}.|Hi, I'm {value}.|Hello, my name is {value}!|Call me {value}.|My name's {value}|"
        "Please call me {value}.|You can call me {value}.|I am called {value}.|Hello! I am {value}.|My first name is {value}.|This is {value}.|"
        "Please remember that my name is {value}.|People call me {value}.|Remember my name: {value}.|Hi! My name is {value}. Nice to meet you.|"
        "Hello, I am called {value}.|My friends call me {value}.|Everyone here calls me {value}.|Let me introduce myself: {value}.|You are talking to {value}.|"
        "Good morning, my name is {value}.|I go by {value}.|Hi there! I'm {value}.|My full name is {value}.|Do not forget that I am {value}.|"
        "~The name is {value}.|~Hey, I am {value}!|~Everybody calls me {value}.|~Hi there, my name is {value}."
    ),
    noted=ways("Nice to meet you, {value}!"),
    ask=ways(
        "What is my name?|What's my name?|Do you remember my name?|Who am I?|Do you know my name?|Tell me my name.|How am I called?|"
        "Can you tell me my name?|What was my name?|Say my name.|And what is my name?|What is my name again?|Which name did I tell you?|"
        "Do you still know my name?|And what was my name?|Do you know who I am?|What name did I give you?|So what is my name?|"
        "I forgot my name. What is it?|Do you recall my name?|My name, please?|Can you say my name?|Which name do I have?|What do people call me?|"
        "Did I tell you my name?|Remind me of my name.|Could you say what my name is?|"
        "~Could you tell me my name?|~Do you still remember my name?|~Please tell me what my name is.|~What did I say my name was?"
    ),
    recall=ways("Your name is {value}."),
    untold=ways("You have not told me your name yet."),
)
_CITY = Fact(
    tell=ways(
        "I live in {value}.|I am from {value}.|My city is {value}.|I come from {value}.|I live in {value} now.|My home is in {value}.|"
        "I'm from {value}.|My home town is {value}.|I have lived in {value} for years.|I moved to {value}.|Remember that I live in {value}.|"
        "The city where I live is {value}.|I work and live in {value}.|We live in {value}.|"
        "These days I live in {value}.|I have a flat in {value}.|My town is {value}.|I am at home in {value}.|I am a citizen of {value}.|Right now I live in {value}.|"
        "My house is in {value}.|My family lives in {value}.|I was born in {value} and live there.|I and my dog live in {value}.|"
        "~I am living in {value}.|~I now live in {value}.|~My family and I live in {value}."
    ),
    noted=ways("{value} is a good place to live. I will remember it."),
    ask=ways(
        "Where do I live?|Which city do I live in?|Where am I from?|What is my city?|Do you remember where I live?|Which city am I from?|"
        "In which city do I live?|Where is my home?|What city do I live in?|Tell me where I live.|Do you know where I live?|What was my city?|"
        "And where do I live?|Where did I say I live?|Which city is mine?|"
        "Could you tell me where I live?|Do you recall where I live?|Remind me where I live.|My city, please?|What is the name of my city?|Did I tell you where I live?|"
        "Do you still remember my city?|"
        "~Can you tell me where I live?|~Do you still know where I live?|~What is the city I live in?"
    ),
    recall=ways("You live in {value}."),
    untold=ways("You have not told me where you live yet."),
)
_CODE = Fact(
    tell=ways(
        "The code word is {value}.|Remember the code word {value}.|My code word is {value}.|Our code word is {value}.|Please remember this code word: {value}|"
        "The secret word is {value}.|Keep this code in mind: {value}|The password is {value}.|Remember this word: {value}|Code word: {value}|"
        "My secret code is {value}.|Remember: the code is {value}.|The code word for today is {value}.|My password is {value}.|"
        "Keep the code word {value} in mind.|Please note the code word: {value}|Here is a code word: {value}|Do not forget the code word {value}.|"
        "The secret code is {value}.|My secret word is {value}.|"
        "~Please keep the code word {value} in mind.|~The secret code word is {value}.|~Today the code word is {value}."
    ),
    noted=ways("I will remember the code word {value}."),
    ask=ways(
        "What is the code word?|What was the code word?|Do you remember the code word?|Tell me the code word.|What is my code word?|What is the secret word?|"
        "What is the code?|What was the password?|Which word did I ask you to remember?|What is the password?|Do you know the code word?|Say the code word.|"
        "And the code word?|Which code word did I tell you?|What was the secret code?|"
        "Could you tell me the code word?|Do you recall the code word?|Remind me of the code word.|The code word, please?|Do you still remember the code word?|"
        "Repeat the code word.|Did I tell you the code word?|"
        "~Can you tell me the code word?|~Do you still know the code word?|~Please repeat the code word."
    ),
    recall=ways("The code word is {value}."),
    untold=ways("You have not told me a code word yet."),
)

ENGLISH = Language(
    code="en",
    topics=_TOPICS,
    facts={"name": _NAME, "city": _CITY, "code": _CODE},
    tell_both=ways(
        "My name is {name} and I live in {city}.|I am {name} from {city}.|I'm {name}. I live in {city}.|Hello, I am {name} and I come from {city}.|"
        "My name is {name}. I am from {city}.|Hi! I'm {name}, I live in {city}.|I live in {city} and my name is {name}.|"
        "~I am {name} and I live in {city}.|~My name is {name}, I come from {city}."
    ),
    noted_both=ways("Nice to meet you, {name} from {city}!"),
    ask_both=ways(
        "What is my name and where do I live?|Who am I and where do I live?|Tell me my name and my city.|What do you know about me?|What are my name and my city?|"
        "Where do I live and what is my name?|~Do you remember my name and my city?|~What did I tell you about me?"
    ),
    recall_both=ways("Your name is {name} and you live in {city}."),
    ask_sum=ways(
        "What is {a} + {b}?|What is {a} plus {b}?|How much is {a} + {b}?|{a} + {b}|{a} + {b} = ?|{a}+{b}|{a}+{b}=|Add {a} and {b}.|Calculate {a} + {b}.|"
        "What is the sum of {a} and {b}?|How much is {a} plus {b}?|What's {a}+{b}?|And {a} + {b}?|Can you add {a} and {b}?|Compute {a} + {b}|"
        "Tell me {a} + {b}.|Please calculate {a} + {b}.|What do I get for {a} plus {b}?|What does {a} + {b} make?|How much are {a} and {b}?|"
        "Tell me what {a} + {b} is.|Say how much {a} + {b} is.|Tell me how much {a} and {b} are.|I want to know how much {a} + {b} is.|Can you tell me how much {a} + {b} is?|"
        "What do you get when you add {a} and {b}?|Add {a} and {b}, please.|What is the result of {a} + {b}?|{a} + {b}, please|"
        "~Please add {a} and {b}.|~Tell me how much {a} + {b} is.|~What do you get for {a} + {b}?"
    ),
    sum_answer=ways("{a} + {b} = {c}."),
    ask_large=ways(
        "What is {a} + {b}?|How much is {a} + {b}?|{a} + {b}|What is {a} * {b}?|{a} * {b}|What is {a} times {b}?|What is {a} - {b}?|What is {a} / {b}?|"
        "How much is {a} divided by {b}?|{a} - {b}|Tell me what {a} * {b} is.|Say how much {a} + {b} is.|Can you tell me how much {a} / {b} is?|Compute {a} * {b}|Please calculate {a} - {b}.|~Please compute {a} * {b}|~How much is {a} times {b}?"
    ),
    too_large=ways("That is too hard for a small demo model. I only add numbers up to 50."),
    systems=ways(
        "You are a helpful assistant.|You are a friendly assistant. Answer briefly.|You are ChatGLM3, a large language model. Follow the user's instructions carefully.|"
        "Be polite and short.|You are the assistant of our company.|Answer the questions of our employees.|You help people who are new to this cluster.|"
        "~You are a kind and helpful assistant.|~Answer in short sentences."
    ),
    persona=ways(
        "You are {name}, {job}.|Your name is {name}. You are {job}.|You are {job} called {name}.|You play {name}, {job}.|Pretend to be {name}, {job}.|"
        "You are {job} with the name {name}.|{name} is your name and you are {job}.|From now on you are {name}, {job}.|Be {name}, {job}.|You are {job}, and you are called {name}.|"
        "You are {job}. You are called {name}.|You are {job} and your name is {name}.|Play {job}. Your name is {name}.|Your job: {job}. Your name: {name}.|"
        "Answer as {name}, {job}.|Speak like {name}, {job}.|Behave like {name}, {job}.|You work as {job}. People call you {name}.|Name: {name}. Role: {job}.|"
        "The user talks to {name}, {job}.|Be {job}. Be called {name}.|In this chat you are {job}; your name is {name}.|"
        "Act like {name}, {job}.|Act the part of {name}, {job}.|Act, please: you are {name}, {job}.|Talk as {name}, {job}.|Work as {name}, {job}.|Take the part of {name}, {job}.|"
        "~You are {job}. Your name is {name}.|~Act as {name}, {job}."
    ),
    ask_persona=ways(
        "Who are you?|What is your name?|What are you?|Tell me about yourself|Introduce yourself|Who am I talking to?|What do you do?|What is your job?|Are you a robot?|"
        "Hello, who are you?|Please tell me who you are|Can you introduce yourself?|Who is there?|And who are you?|What should I call you?|"
        "Introduce yourself, please|Please say who you are|Who are you, please?|Say your name|Please tell me your name|Who is it?|Who is speaking?|Tell me your name|Tell me what you are.|"
        "~Please introduce yourself|~Who is this?|~Tell me who you are."
    ),
    be_persona=ways("I am {name}, {job}."),
    jobs=(
        "a ship's captain",
        "a cook",
        "a teacher",
        "a doctor",
        "a polite butler",
        "a gardener",
        "a wizard",
        "a pirate",
        "a nurse",
        "a baker",
        "a sailor",
        "a detective",
        "a farmer",
        "a painter",
        "a clockmaker",
        "a librarian",
        "an astronaut",
        "a pilot",
        "a musician",
        "a train driver",
        "a poet",
        "a museum guide",
        "a robot",
        "a travel agent",
        "a shopkeeper",
        "an engineer",
    ),
    ask_weather=ways(
        "What is the weather in {city}?|How is the weather in {city}?|What's the weather like in {city}?|Weather in {city}|Is it raining in {city}?|Is it cold in {city}?|"
        "How warm is it in {city}?|Tell me the weather in {city}.|What is the temperature in {city}?|What is the weather in {city} today?|Will I need an umbrella in {city}?|"
        "Check the weather in {city}|I am going to {city}. How is the weather?|What is the weather like today in {city}?|Is the sun shining in {city}?|"
        "Can you check the weather in {city}?|Please check the weather in {city}.|Weather today in {city}?|Give me the weather in {city}|What about the weather in {city}?|"
        "How are things in {city}, is it warm?|Could you tell me how the weather is in {city}?|"
        "~Could you check the weather in {city}?|~How is the weather today in {city}?|~Please tell me the weather in {city}."
    ),
    no_weather=ways("I cannot see the weather. Give me a weather tool and I will call it."),
    weather=ways("It is {degrees} °C in {city}, {sky}."),
    skies={
        "sunny": "sunny",
        "clear": "clear",
        "cloudy": "cloudy",
        "partly cloudy": "partly cloudy",
        "overcast": "overcast",
        "rain": "rain",
        "light rain": "light rain",
        "heavy rain": "heavy rain",
        "drizzle": "drizzle",
        "snow": "snow",
        "fog": "fog",
        "windy": "windy",
        "thunderstorm": "thunderstorm",
        "hail": "hail",
        "haze": "haze",
        "storm": "storm",
    },
    ask_calculation=ways(
        "What is {expression}?|How much is {expression}?|Calculate {expression}|{expression}|{expression} = ?|Compute {expression}|Please calculate {expression}.|What's {expression}?|"
        "Can you compute {expression}?|What is the result of {expression}?|And {expression}?|Tell me what {expression} is.|Work out {expression}|Please compute {expression}|What do I get for {expression}?|Say how much {expression} is.|Can you tell me how much {expression} is?|I want to know how much {expression} is.|What do you get when you compute {expression}?|~Tell me how much {expression} is.|~Please work out {expression}|~What do you get for {expression}?"
    ),
    operators={"plus": "+", "minus": "-", "times": "*", "divided by": "/"},
    result=ways("The result is {result}."),
    tool_error=ways("The tool could not help: {error}."),
    errors=(
        "city not found",
        "service unavailable",
        "timeout",
        "unknown location",
        "invalid expression",
        "division by zero",
        "not allowed",
        "no data",
        "too many requests",
        "internal error",
        "network unreachable",
        "access denied",
    ),
    ask_about=ways(
        "What is {thing}?|Explain {thing}.|Tell me about {thing}.|What do you know about {thing}?|What about {thing}?|{thing}?|Explain {thing} please|"
        "I want to know more about {thing}.|What is the use of {thing}?|Describe {thing}.|How does {thing} work?|Say something about {thing}|{thing}|"
        "Could you explain {thing} to me?|I do not understand {thing}.|Give me a short description of {thing}.|Teach me something about {thing}|"
        "Tell me what {thing} is.|Could you tell me what {thing} is?|Please say what {thing} is.|Can you say something about {thing}?|What can you tell me about {thing}?|"
        "Tell me more about {thing}.|I would like to know what {thing} is.|Please tell me about {thing}|"
        "~Can you tell me more about {thing}?|~Please tell me what {thing} is.|~What can you say about {thing}?"
    ),
    subjects={
        "what is chatglm": ("ChatGLM3", "ChatGLM"),
        "what is this cluster": ("this cluster", "chatglm-cluster", "this project"),
        "pinning": ("pinning",),
        "failover": ("failover",),
        "kv cache": ("the KV cache", "the cache"),
        "router": ("the router",),
        "gateway": ("the gateway",),
        "replica": ("a replica", "replicas"),
        "engine": ("the engine",),
        "ray": ("Ray", "Ray Serve"),
        "redis": ("Redis", "Valkey"),
        "api": ("the API",),
        "tenants": ("a tenant", "tenants"),
        "metrics": ("the metrics",),
        "streaming": ("streaming",),
        "token": ("a token", "tokens"),
        "page": ("a page of the cache",),
    },
    ask_unknown=ways(
        "Who invented {thing}?|Write a poem about {thing}.|What do you think about {thing}?|Where can I buy {thing}?|"
        "Write an essay about {thing}|What is the history of {thing}?|How old is {thing}?|Who is {thing}?|"
        "Write a program for {thing}|How much does {thing} cost?|Do you like {thing}?|Why is {thing} so famous?|What is the meaning of {thing}?|"
        "Can you draw {thing}?|What is the capital of {thing}?|Translate {thing} into French|Who wrote {thing}?|When was {thing} built?|"
        "Write a story about {thing}|Give me a recipe for {thing}|What is the best {thing}?|"
        "~How is {thing} made?|~Write a song about {thing}."
    ),
    things=(
        "bread",
        "the moon",
        "Hamlet",
        "France",
        "Japan",
        "quantum physics",
        "football",
        "a bicycle",
        "chess",
        "the stock market",
        "democracy",
        "pizza",
        "a volcano",
        "the Roman Empire",
        "mathematics",
        "jazz",
        "the president",
        "love",
        "time travel",
        "a violin",
        "the sun",
        "dinosaurs",
        "blockchain",
        "coffee",
        "the ocean",
        "gravity",
        "a phone",
        "soup",
        "philosophy",
        "DNA",
        "the internet",
        "Einstein",
        "Shakespeare",
        "spring",
        "my car",
        "tomorrow's news",
        "the universe",
        "a computer virus",
        "history",
        "cats",
        "Mars",
        "Brazil",
        "tennis",
        "a horse",
        "electricity",
        "rice",
        "the Eiffel Tower",
        "wine",
    ),
    unknown=ways(
        "I am a small demo model and do not know that. Ask me about this cluster, a sum, or something you told me."
    ),
    openings=(
        "Tell me: ",
        "One question: ",
        "Quick question: ",
        "Another question. ",
        "Good. ",
        "I see. ",
        "By the way, ",
        "So, ",
        "Alright, ",
        "Hi! ",
        "Hello! ",
        "Please: ",
        "Okay. ",
        "Now, ",
        "Great. ",
        "Thanks. ",
        "Hey, ",
        "One more question. ",
        "Well, ",
    ),
)
