"""Writes the quickstart data set: 496 everyday commonsense questions in the LLM-Adapters format.

The facts below were written by hand for this project; nothing is taken from another data set.
Each fact is used in exactly one split, so the test set asks about things the training set never
states. Running the script writes the same bytes every time:

    python examples/quickstart/make_records.py
"""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Records per answer form. What the two held-out splits do not take is the training set.
HELD_OUT = {"true/false": 14, "answer": 14, "solution": 6, "ending": 8, "option": 6}
TRAIN = {"true/false": 118, "answer": 126, "solution": 60, "ending": 52, "option": 44}
SPLITS = ("train", "validation", "test")

# A table of facts, "subject: value". A "?" line asks for the value (or, where it gives {v}, for
# the subject); a "!" line makes a yes-or-no question. The other rows supply the wrong choices, so
# no value may be true of another row's subject.
TABLES = """
# home
? Where does {s} usually live?
? Which animal usually lives {v}?
! does {s} usually live {v}?
a honeybee: in a hive; a beaver: in a lodge built of sticks; a polar bear: on Arctic sea ice
an emperor penguin: on Antarctic ice; a clownfish: among the arms of a sea anemone
a mole: in tunnels under the ground

# young
? What do we call a young {s}?
? The young of which animal is called {v}?
! is a young {s} called {v}?
sheep: a lamb; goat: a kid; kangaroo: a joey; swan: a cygnet; deer: a fawn; horse: a foal

# sound
? Which sound is {s} known for?
? Which animal is known for its {v}?
! is {s} known for its {v}?
a lion: roar; an owl: hoot; a duck: quack; a donkey: bray; a wolf: howl; a mouse: squeak

# defence
? How does {s} protect itself?
? Which animal protects itself {v}?
! does {s} protect itself {v}?
a hedgehog: by rolling into a ball of spines; a skunk: by spraying a foul smell
a tortoise: by pulling its head into a shell; a squid: by squirting a cloud of ink
an opossum: by playing dead; a pufferfish: by swelling up like a balloon

# product
? What do people get from {s}?
? Where do people get {v} from?
! do people get {v} from {s}?
silkworms: silk; oysters: pearls; honeybees: honey; maple trees: syrup; rubber trees: latex
merino sheep: wool

# kind of animal
? What kind of animal is {s}?
? Which of these animals is {v}?
! is {s} {v}?
a dolphin: a mammal; a bat: a mammal; an ostrich: a bird; a seahorse: a fish; a lizard: a reptile
a newt: an amphibian; a beetle: an insect

# number
? What is the number of {s}?
! is the number of {s} {v}?
! if you count the {s}, do you get {v}?
days in a week: seven; months in a year: twelve; legs on a spider: eight; sides of a triangle: three
minutes in an hour: sixty; strings on a violin: four

# tool
? What is {s} mainly used for?
? Which tool is the right one for {v}?
! is {s} the right tool for {v}?
a saw: cutting wood; a hammer: driving nails; a screwdriver: turning screws
a spade: digging holes; a rake: gathering leaves; a tape measure: finding the length of a plank

# kitchen
? In the kitchen, what is {s} for?
? Which kitchen tool is made for {v}?
! in the kitchen, is {s} made for {v}?
a whisk: beating eggs; a colander: draining pasta; a grater: shredding cheese
a rolling pin: flattening dough; a ladle: serving soup; a kettle: boiling water

# measuring
? What does {s} measure?
? Which of these measures {v}?
! does {s} measure {v}?
! can you find out {v} with {s}?
a thermometer: how warm something is; a bathroom scale: how much a person weighs
a barometer: the pressure of the air; a speedometer: how fast a car is going
a rain gauge: how much rain has fallen; a stopwatch: how long a race takes

# job
? What is {s} trained to do?
? Whose job is it to {v}?
! is it the job of {s} to {v}?
a baker: make bread; a dentist: look after teeth; a plumber: repair water pipes; a pilot: fly planes
a tailor: sew suits; a firefighter: put out fires

# workplace
? Where does {s} usually work?
? Who usually works {v}?
! does {s} usually work {v}?
a teacher: in a classroom; a surgeon: in an operating room; a chef: in a restaurant kitchen
a judge: in a courtroom; a sailor: aboard a ship; a miner: deep underground

# colour
? What colour is {s}?
? Which of these is {v} in colour?
! is {s} {v} in colour?
a ripe banana: yellow; fresh snow: white; a clear sky at noon: blue; healthy grass: green
coal: black; a flamingo: pink; a ripe strawberry: red

# mixing
? Which colour do you get by mixing {s} paint?
? Which two paints do you mix to make {v}?
! does mixing {s} paint make {v}?
red and yellow: orange; blue and yellow: green; red and blue: purple; black and white: grey
red and white: pink

# opposite
? What is the opposite of '{s}'?
! is '{v}' the opposite of '{s}'?
! do '{s}' and '{v}' have opposite meanings?
heavy: light; full: empty; deep: shallow; ancient: modern; brave: cowardly; rough: smooth

# same meaning
? Which word means nearly the same as '{s}'?
! does '{s}' mean nearly the same as '{v}'?
! could you say '{v}' instead of '{s}' and mean the same?
begin: start; enormous: huge; weary: tired; wealthy: rich; purchase: buy; repair: mend

# past
? What is the past tense of '{s}'?
? Which verb has the past tense '{v}'?
! is '{v}' the past tense of '{s}'?
go: went; eat: ate; swim: swam; teach: taught; write: wrote

# material
? What is {s} usually made of?
? Which of these is usually made of {v}?
! is {s} usually made of {v}?
a window pane: glass; a car tyre: rubber; a newspaper: paper; a brick: baked clay; a candle: wax
a pair of jeans: cotton

# property
? What is {s} best known for?
? Which of these is best known for {v}?
! is {s} best known for {v}?
a diamond: being very hard; copper wire: carrying electricity; a sponge: soaking up water
a magnet: attracting iron; an elastic band: stretching and springing back; a cork: floating on water

# ingredient
? What do you need to make {s}?
? Which food is made from {v}?
! do you need {v} to make {s}?
raisins: grapes; dark chocolate: cocoa beans; ketchup: tomatoes; tofu: soybeans; popcorn: corn
hummus: chickpeas

# part of a plant
? When you eat {s}, which part of the plant is on your plate?
? Which of these do farmers grow mainly for {v} of the plant?
! when you eat {s}, do you mainly eat {v} of the plant?
carrots: the root; lettuce: the leaves; broccoli: the flower buds; asparagus: the stem
chickpeas: the seeds

# taste
? How does {s} taste?
? Which of these tastes {v}?
! does {s} taste {v}?
lemon juice: sour; candyfloss: sweet; a slice of bacon: salty; black coffee: bitter
a chilli pepper: hot

# season
? In northern countries, which season brings {s}?
! in northern countries, does {v} bring {s}?
! in the north of the world, are {s} a sign of {v}?
falling leaves: autumn; the shortest days of the year: winter; the longest days of the year: summer
the first buds on the trees: spring

# clothes
? What would you put on {s}?
! would you put on {v} {s}?
to keep your hands warm: mittens; to keep off the rain: a raincoat
to shade your eyes from the sun: sunglasses; to protect your head on a bicycle: a helmet
to keep your clothes clean while cooking: an apron; to go to bed: pyjamas

# body
? What is the main job of {s}?
? Which part of the body works {v}?
! is it the main job of {s} {v}?
the heart: to pump blood; the lungs: to take in air; the stomach: to digest food
the brain: to think; the skeleton: to hold the body up; the teeth: to chew

# sense
? Which part of the body tells you about {s}?
! do you find out about {s} with {v}?
the colours of a rainbow: the eyes; the loudness of a bang: the ears
the scent of a rose: the nose; the saltiness of a soup: the tongue; the heat of a bath: the skin

# capital
? What is the capital city of {s}?
? Of which country is {v} the capital?
! is {v} the capital city of {s}?
France: Paris; Japan: Tokyo; Italy: Rome; Kenya: Nairobi; Norway: Oslo; Spain: Madrid

# continent
? On which continent is {s}?
? Which of these countries is in {v}?
! is {s} in {v}?
Brazil: South America; India: Asia; Germany: Europe; Canada: North America; Nigeria: Africa

# landmark
? In which country would you find {s}?
? Which famous sight is in {v}?
! is {s} in {v}?
the Eiffel Tower: France; the Taj Mahal: India; the Statue of Liberty: the United States
the Colosseum: Italy; the Great Pyramid of Giza: Egypt; the city of Machu Picchu: Peru

# language
? What is the main language of {s}?
? In which country is {v} the main language?
! is {v} the main language of {s}?
Brazil: Portuguese; Mexico: Spanish; Austria: German; Egypt: Arabic; Iran: Persian

# sky
? What is {s}?
? Which of these is {v}?
! is {s} {v}?
the Sun: a star; Mars: a planet; the Milky Way: a galaxy; Orion: a constellation

# effect
? What will {s} do?
? Which of these will {v}?
! will {s} {v}?
water left in a freezer: freeze; an ice cube left in a warm room: melt
an iron gate left bare in the rain: rust; milk left on a warm shelf for a week: turn sour
a balloon pricked with a pin: burst; a ball thrown straight up: fall back down
bread dough with yeast in a warm place: rise

# cause
? What is the most likely cause of {s}?
! is {v} a likely cause of {s}?
! could {v} be the usual reason for {s}?
wet streets: rain; a flat tyre: a nail on the road; a rumbling stomach: hunger
a fit of sneezing: dust; an echo in a valley: sound bouncing back; a smoking toaster: burnt bread

# power
? What powers {s}?
? Which of these is powered by {v}?
! is {s} powered by {v}?
a sailing boat: wind; a torch: batteries; a watermill: flowing water; a bicycle: leg muscles
a clockwork toy: a wound spring

# travel
? Where does {s} travel?
? Which of these travels {v}?
! does {s} travel {v}?
a submarine: under the sea; a train: on rails; a helicopter: through the air
a lift: up and down a shaft; a weather satellite: around the Earth

# storage
? Where is the best place for {s}?
? Which of these belongs {v}?
! is the best place for {s} {v}?
ice cream: in a freezer; a winter coat: in a wardrobe; a car: in a garage; a cut rose: in a vase
household rubbish: in a bin

# place to go
? Where would you go to {s}?
? What would you do at {v}?
! would you go to {v} to {s}?
borrow a novel: a library; catch a plane: an airport; see a new film: a cinema
look at paintings: an art gallery; watch live elephants: a zoo; have an operation: a hospital

# family
? Who is {s}?
? Which of these people is {v}?
! is {s} {v}?
your mother's sister: your aunt; your father's father: your grandfather
your sister's son: your nephew; your brother's daughter: your niece; your uncle's child: your cousin

# sport
? What do you need for {s}?
? For which activity do you need {v}?
! do you need {v} for {s}?
tennis: a racket; golf: a set of clubs; chess: a board with 64 squares; fishing: a rod and line
ice hockey: a puck

# playing music
? How do you normally play {s}?
? Which instrument do you normally play {v}?
! do you normally play {s} {v}?
a piano: by pressing keys; a flute: by blowing across a hole; a violin: with a bow
a drum kit: with sticks; a guitar: by plucking strings with the fingers

# month
? Which month comes right after {s}?
? Which month comes right before {v}?
! does {v} come right after {s}?
January: February; March: April; May: June; July: August; September: October

# shape
? What is the shape of {s}?
? Which of these has the shape of {v}?
! does {s} have the shape of {v}?
a tennis ball: a sphere; a dice: a cube; a tin of beans: a cylinder; a page of a book: a rectangle
a stop sign: an octagon

# gas
? Which gas {s}?
! is {v} the gas that {s}?
makes party balloons float: helium; puts the bubbles in lemonade: carbon dioxide
keeps people alive when they breathe: oxygen; makes up most of the air: nitrogen
burns in many kitchen stoves: natural gas

# sign
? What does {s} usually mean?
? Which of these usually means {v}?
! does {s} usually mean {v}?
a red traffic light: stop; a skull and crossbones on a bottle: poison; a nod: yes
a finger held to the lips: be quiet; a wave at the door: goodbye

# feeling
? How are you most likely to feel {s}?
! are you likely to feel {v} {s}?
when you win a race: proud; when your best friend moves away: sad
when you hear a strange noise in the dark: scared; when you have nothing to do: bored
when you have skipped lunch: hungry

# currency
? Which money do people use in {s}?
? In which country do people pay with {v}?
! do people in {s} pay with {v}?
Japan: the yen; India: the rupee; Mexico: the peso; China: the yuan; South Africa: the rand
"""

# The first of the two is more so than the second.
COMPARISONS = """
heavier: a grand piano, a guitar
faster: a racing car, a tractor
hotter: boiling water, bath water
older: a grandmother, her grandchild
brighter: the midday sun, a candle
softer: a feather pillow, a brick
louder: a clap of thunder, a whisper
deeper: an ocean, a garden pond
wider: a motorway, a footpath
sharper: a razor blade, a teaspoon
thicker: an encyclopedia, a leaflet
larger: a blue whale, a goldfish
slower: a snail, a galloping horse
stickier: glue, tap water
longer: a marathon, a hundred-metre sprint
higher: the top of Mount Everest, the roof of a house
smoother: a polished mirror, sandpaper
drier: the Sahara Desert, a rainforest
harder: a steel bar, a marshmallow
stronger: an ox, a kitten
rounder: a glass marble, a shoebox
more expensive: a new house, a new bicycle
"""

# The right choice comes first.
CHOICES = """
Which of these is not a fruit? a cabbage; a cherry; a mango; a peach; a pear
Which of these is not a musical instrument? a telescope; a trumpet; a cello; a harp; a banjo
Which of these is not a piece of furniture? an umbrella; an armchair; a stool; a desk; a bed
Which of these is not a metal? chalk; gold; silver; tin; lead
Which of these is not a part of the body? a glove; an elbow; an ankle; a shoulder; a knee
Which of these cannot carry you to another town? a lighthouse; a van; a tram; a coach; a motorbike
Which of these is not a vegetable? a salmon; an onion; a turnip; a leek; a parsnip
Which of these is not a flower? a mushroom; a daisy; a lily; a daffodil; a poppy
Which of these has nothing to do with the weather? a blanket; a blizzard; drizzle; fog; hail
Which of these is a city and not a country? London; Chile; Sweden; Thailand; Morocco
Which of these should you never drink? liquid soap; lemonade; cocoa; apple juice; tea
Which of these is not a tree? a tulip; an oak; a birch; a willow; a pine
Which of these is not a bird? a moth; a crow; a swallow; a pigeon; a heron
Which of these is not worn on the feet? a belt; a slipper; a boot; a sock; a sandal
Which of these animals is the tallest? a giraffe; a sheep; a wolf; a badger; a zebra
Which of these is the easiest to lift? a feather; a full suitcase; an anvil; a sack of sand; a bed
Which of these lasts the longest? a century; a decade; a year; a week; an hour
Which is the fastest way across the Atlantic? an airliner; a raft; a yacht; a rowing boat; a canoe
Which of these can hold the most water? a swimming pool; a teacup; a bathtub; a bucket; a jug
Which of these happens earliest in the day? sunrise; lunch; teatime; sunset; dinner
What grows from an acorn? an oak tree; a rose bush; a stalk of wheat; a sunflower; a fern
Which of these can you see through? clear plastic; cardboard; a slate roof; tinfoil; leather
"""

# Two goals and their solutions. Each solution is wrong for the other goal.
SOLUTIONS = """
cool a hot drink quickly -> Stir it and add an ice cube.
keep a hot drink warm -> Pour it into a vacuum flask and close the lid.

dry a wet shirt -> Hang it on a line in the sun.
get the creases out of a dry shirt -> Press it on a board with a hot iron.

open a jar with a tight lid -> Grip the lid with a rubber glove and twist.
keep crisps fresh in an open bag -> Fold the top over and clip it with a peg.

move a plant to a bigger pot -> Loosen its roots and set it in fresh soil.
keep a plant alive while you are away -> Ask a neighbour to water it twice a week.

soften butter for baking -> Leave it on the kitchen table for an hour.
keep butter firm in hot weather -> Put it on the coldest shelf of the fridge.

boil an egg -> Lower it into simmering water for eight minutes.
scramble an egg -> Crack it into a pan and stir it over low heat.

make a hard avocado ripen -> Leave it in a paper bag with a banana.
stop a cut avocado from turning brown -> Rub it with lemon juice and wrap it tightly.

hang a heavy mirror on a wall -> Fix a strong screw in the wall and hook the wire on.
put up a paper poster without making holes -> Press a bit of putty behind each corner.

wake up on time -> Set an alarm before you go to bed.
fall asleep more easily -> Switch off the lights and put the phone away.

cross a busy road safely -> Use the crossing and look both ways.
be seen while walking on a dark road -> Wear a bright vest with shiny strips.

put out burning oil in a pan -> Turn off the heat and cover it with a lid.
put out a campfire -> Pour water on it and stir the ashes.

stop a nosebleed -> Lean forward and pinch the nose.
clear a blocked nose -> Breathe in the steam from a bowl of hot water.

ease a small burn on a finger -> Hold it under cool running water.
get a splinter out of a finger -> Pull it out with clean tweezers.

get a sharp point on a pencil -> Turn it in a sharpener.
get a fountain pen to write again -> Fit a new ink cartridge.

stop a door from slamming -> Push a wedge under it.
stop a door from squeaking -> Put a drop of oil on the hinges.

carry water from a stream -> Fill a bucket and lift it by the handle.
carry loose sticks -> Tie them in a bundle with string.

separate sand from pebbles -> Shake the mix in a sieve.
separate salt from water -> Boil the mix until only a white crust is left.

make a paper plane -> Fold a sheet to a point with two wings.
make a paper chain -> Loop strips through each other and glue the ends.

see a bird that is far away -> Look through a pair of binoculars.
read very small print -> Hold a magnifying glass over it.

keep the sun from burning your skin -> Rub on sunscreen before you go out.
keep mosquitoes from biting you at night -> Sleep under a fine net.

let more daylight into a room -> Draw the curtains back.
make a bright room dark for a film -> Close the curtains and switch off the lamp.

warm up a cold room -> Shut the windows and turn on the radiator.
freshen a stuffy room -> Open the windows wide for ten minutes.

clean muddy boots -> Let the mud dry and knock it off with a stiff brush.
make leather shoes shine -> Rub in polish and buff them with a soft cloth.

test whether spaghetti is cooked -> Take out one strand and bite it.
test whether a cake is baked -> Push in a wooden stick and see if it comes out clean.

make a thin soup thicker -> Stir in some mashed potato.
make a thick soup thinner -> Stir in a cup of hot stock.

pump up a soft bicycle tyre -> Push the pump onto the valve and work the handle.
mend a hole in a bicycle's inner tube -> Glue a rubber patch over it.

make the text on a phone easier to read -> Choose a larger font in the settings.
make a phone's battery last longer -> Dim the screen and close unused apps.

remember what to buy -> Write a list and take it to the shop.
remember a friend's birthday every year -> Mark the date on the calendar.

get a spider out of the house unharmed -> Put a glass over it and slide a card under.
keep flies from coming in -> Fit a fine mesh over the window.

move a full wardrobe across the room -> Empty it and push it with a friend.
stop a table from rocking -> Slide folded card under the short leg.

get chewing gum off a shoe -> Harden it with ice and scrape it off.
get a bad smell out of a shoe -> Leave baking soda in it overnight.

keep a loaf from going stale -> Store it in a closed bread box.
use up a stale loaf -> Cut it into cubes and fry them for croutons.

walk on ice without falling -> Take short steps in shoes with rough soles.
melt the ice on a path -> Scatter salt over it.

find a phone lost in the house -> Call it and follow the ringing.
find out what a word means -> Look it up in a dictionary.

feed wild birds in winter -> Hang a holder full of seeds in a tree.
keep birds off ripe cherries -> Spread a net over the tree.

share a pizza fairly among four people -> Cut it into four equal slices.
keep half a pizza for tomorrow -> Wrap it and put it in the fridge.
"""

# Four scenes and how each goes on. Each ending is wrong for the other three scenes.
ENDINGS = """
Toast: A man drops two slices of bread into the toaster. He -> pushes the lever down and waits.
Tea: A man pours boiling water into a mug. He -> lets a tea bag brew in it.
Juice: A man cuts three oranges in half. He -> squeezes them over a jug.
Fried egg: A man breaks an egg into a hot pan. He -> waits until the white is set.

Bulbs: A woman digs a hole in the flower bed. She -> drops in a tulip bulb.
Lawn: A woman starts the mower. She -> walks up and down over the grass.
Orchard: A woman climbs a ladder to the apples. She -> picks the ripe ones.
Seedlings: A woman fills a watering can. She -> sprinkles the young plants.

Traffic: The light ahead turns red. The driver -> brakes and waits behind the line.
Filling up: A car stops beside a fuel pump. The driver -> puts the nozzle in the tank.
Parking: A car reaches a gap in the row by the kerb. The driver -> reverses into it.
Breakdown: A wheel of the car has come loose. The driver -> tightens the bolts with a wrench.

Fetch: A boy throws a stick across the park. The dog -> brings it back to him.
Bath: A girl rinses her dog in the tub. The dog -> shakes water all over the floor.
Dinner: A man puts down a bowl of meat. The dog -> licks it clean.
Visitor: The doorbell rings at midnight. The dog -> barks at the front door.

Question: A pupil knows the answer. The pupil -> raises a hand.
Mistake: A pupil sees a wrong letter in pencil. The pupil -> rubs it out.
Home time: The last bell of the day rings. The pupil -> packs up and leaves for the bus.
Art: A pupil stands before a blank canvas. The pupil -> picks up a brush and paints.

High jump: A girl runs towards the bar. She -> leaps over it and lands on the mat.
Swimming: A girl stands on the block above the pool. She -> dives in at the whistle.
Archery: A girl fits an arrow to the string. She -> draws the bow and aims.
Basketball: A girl bounces the ball up to the hoop. She -> drops it through the net.

Bedtime: A child hands over a picture book. The father -> reads the story aloud.
Feeding: A hungry baby cries. The father -> warms a bottle of milk.
Scraped knee: A boy falls on the gravel. The father -> cleans the wound.
Laces: A toddler's laces have come undone. The father -> ties them in a bow.

Shoes: The new shoes pinch. The customer -> asks for a larger pair.
Till: The cashier reads out the total. The customer -> pays with a bank card.
Refund: A sweater from the shop has a hole. The customer -> takes it back with the receipt.
Haircut: The barber holds up a mirror. The customer -> looks at the back of his head.

Carpet: A man plugs in the vacuum cleaner. He -> pushes it over the rug.
Dishes: A man fills the sink with soapy water. He -> scrubs the plates.
Windows: A man sprays cleaner on the dirty glass. He -> wipes it until he can see out.
Laundry: A man lifts wet shirts out of the machine. He -> pegs them on the line.

Concert: The pianist plays the last note and bows. The audience -> claps and asks for more.
Cinema: The lights go down and the screen lights up. The audience -> settles to watch the film.
Alarm: A fire alarm stops the play. The audience -> walks to the exits.
Circus: A clown sits down in a cake. The audience -> roars with laughter.

Milking: The cows wait in the shed. The farmer -> fits the milking machine.
Fence: Three sheep slip out through a gap. The farmer -> chases them and blocks the hole.
Harvest: The wheat is tall and golden. The farmer -> cuts it and stores the grain.
Storm: The horses are out as a blizzard comes. The farmer -> leads them into the stable.

Border: The officer asks for proof of name. The traveller -> shows a passport.
Last bus: The last bus of the night has gone. The traveller -> calls a taxi.
Hotel: The clerk hands over a room key. The traveller -> goes up and unlocks the door.
Platform: The train stops and its doors open. The traveller -> gets in and finds a seat.

Tent: Two friends unroll a tent. They -> put in the poles and the pegs.
Campfire: Two friends pile up dry sticks. They -> strike a match and light them.
Canoe: Two friends carry a canoe into the lake. They -> climb in and paddle off.
Lost: Two friends lose the path in a forest. They -> look at the map.

Cough: A woman coughs and her chest rattles. The doctor -> listens to her lungs.
X-ray: The picture shows a broken arm. The doctor -> sets it in plaster.
Eye test: A man cannot read distant signs. The doctor -> shows him a chart of letters.
Flu jab: A girl rolls up her sleeve. The doctor -> gives the injection.

Blackout: The power fails after dark. The family -> lights candles.
Picnic: Rain pours down on the picnic. The family -> packs up and runs to the car.
Heatwave: It is the hottest day of the year. The family -> splashes in the paddling pool.
Snow day: Deep snow covers the hill. The family -> takes the sledge out.

Button: A woman finds a loose button. She -> sews it back on.
Present: A woman lays a gift on coloured paper. She -> wraps it and ties a ribbon.
Letter: A woman seals an envelope. She -> sticks on a stamp and posts it.
Pottery: A woman sets wet clay on the wheel. She -> shapes it into a bowl.

Nest: A robin finds a good twig. The bird -> weaves it into its nest.
Worm: A blackbird spots a worm in the lawn. The bird -> pulls it out and eats it.
Danger: A cat creeps up on a sparrow. The bird -> takes off in alarm.
Chicks: Hungry chicks open their beaks. The bird -> drops a caterpillar into each one.
"""

# Twins: the first word in brackets makes the first name fill the blank, the second the second.
TWINS = """
Nina put the melon in the bag and it tore, because the _ was too [heavy|thin]. melon, bag
The guests liked the soup more than the stew, since the _ was [well spiced|burnt]. soup, stew
Tom asked Ben for help with the sums, because _ was [bad|good] at numbers. Tom, Ben
The cat could not catch the mouse, because the _ was too [slow|quick]. cat, mouse
Anna lent Grace an umbrella, since _ had [two|none] that day. Anna, Grace
The stone cracked the window, because the _ was so [hard|brittle]. stone, window
Paul carried the crate for Henry, because _ had [strong arms|a sore back]. Paul, Henry
We could not climb the ladder to the roof, as the _ was too [short|high]. ladder, roof
Maria taught Lucy to swim, as _ was [a trained coach|afraid of water]. Maria, Lucy
The ship came into port long before the raft, for the _ was very [fast|slow]. ship, raft
Leo gave the bike back to Oscar, because _ [no longer needed|wanted to ride] it. Leo, Oscar
The juice ran over the tablecloth, so the _ had to be [mopped up|washed]. juice, tablecloth
In the heat we chose the fan over the heater, as the _ would [cool|warm] us. fan, heater
Sara bought the apples and not the grapes, because the _ were [cheap|too dear]. apples, grapes
The nail would not go into the plank, because the _ was too [blunt|hard]. nail, plank
Eva walked on the path rather than the road, as the _ was [quiet|full of traffic]. path, road
Jack could not find Will, because _ had [looked in the wrong room|hidden well]. Jack, Will
On a cold night Mia chose the blanket over the sheet, as the _ was so [thick|thin]. blanket, sheet
Dad gave water to the fern but not the cactus, as the _ needed [a lot|very little]. fern, cactus
Ravi beat Sam at chess, because _ [planned well ahead|kept making mistakes]. Ravi, Sam
The picture fell off its hook, because the _ was too [heavy|weak]. picture, hook
Clara copied from Beth in the test, because _ had [not studied|studied hard]. Clara, Beth
We read by the lamp and not the candle, because the _ was [bright|dim]. lamp, candle
The waiter said sorry to the guest, as the _ had [spilled the soup|been kept waiting]. waiter, guest
Omar rang Peter from the station, because _ [needed a lift|had a car]. Omar, Peter
Under the truck the bridge gave way, since the _ was [rotten|overloaded]. bridge, truck
Julia looked after Kate's baby, because _ [had time to help|was going out]. Julia, Kate
The collar did not fit the puppy any more, as the _ was [too tight|growing fast]. collar, puppy
"""


class Draft(NamedTuple):
    """A question before its choices are put in order; for true/false, two whole questions."""

    fact: str
    question: str
    right: str
    wrong: tuple[str, ...]


class Made(NamedTuple):
    """A record and the fact that it tests."""

    fact: str
    record: dict[str, str]


def parse_tables() -> list[tuple[str, list[str], list[str], dict[str, str]]]:
    """The tables as (name, "?" lines, "!" lines, {subject: value})."""
    tables = []
    for block in TABLES.strip().split("\n\n"):
        lines: dict[str, list[str]] = {"#": [], "?": [], "!": [], "": []}
        for line in block.split("\n"):
            mark = line[0] if line[0] in lines else ""
            lines[mark].append(line.removeprefix(mark).strip())
        rows = [row.split(": ") for line in lines[""] for row in line.split("; ")]
        tables.append((lines["#"][0], lines["?"], lines["!"], dict(rows)))
    return tables


def draft_tables(n_checks: int, rng: random.Random) -> tuple[list[list[Draft]], list[list[Draft]]]:
    """One draft per fact: `n_checks` yes-or-no questions, the rest with four or five choices."""
    facts = [(*table, subject) for table in parse_tables() for subject in table[3]]
    rng.shuffle(facts)
    checks, questions = [], []
    for i, (name, asks, tests, rows, s) in enumerate(facts):
        v, fact = rows[s], f"{name}: {s}"
        others = sorted({value for value in rows.values() if value != v})
        rng.shuffle(others)
        if i < n_checks:
            test = rng.choice(tests)
            true, false = test.format(s=s, v=v), test.format(s=s, v=others[0])
            checks.append([Draft(fact, "", true, (false,))])
            continue
        ask = rng.choice(asks)
        if "{v}" in ask:
            v, others = s, [subject for subject, value in rows.items() if value != v]
            rng.shuffle(others)
        question = ask.format(s=s, v=rows[s])
        questions.append([Draft(fact, question, v, tuple(others[:4]))])
    return checks, questions


def draft_comparisons(rng: random.Random) -> list[list[Draft]]:
    """Yes-or-no questions of which the false one has its two things swapped."""
    units = []
    for line in COMPARISONS.strip().split("\n"):
        word, pair = line.split(": ")
        more, less = pair.split(", ")
        ask = rng.choice(["is {} {} than {}?", "would you expect {} to be {} than {}?"])
        true, false = ask.format(more, word, less), ask.format(less, word, more)
        units.append([Draft(f"{word}: {pair}", "", true, (false,))])
    return units


def draft_choices() -> list[list[Draft]]:
    """Questions with choices of their own."""
    units = []
    for line in CHOICES.strip().split("\n"):
        question, choices = line.split("? ")
        right, *wrong = choices.split("; ")
        units.append([Draft(question, f"{question}?", right, tuple(wrong))])
    return units


def draft_solutions() -> list[list[Draft]]:
    """Pairs of goals that offer the same two solutions."""
    phrasings = [
        "How do you {}?",
        "What is a good way to {}?",
        "You want to {}. What should you do?",
        "To {},",
    ]
    units = []
    for i, block in enumerate(SOLUTIONS.strip().split("\n\n")):
        (goal_a, a), (goal_b, b) = (line.split(" -> ") for line in block.split("\n"))
        ask = phrasings[i % len(phrasings)]
        units.append([Draft(goal_a, ask.format(goal_a), a, (b,))])
        units[-1].append(Draft(goal_a, ask.format(goal_b), b, (a,)))
    return units


def draft_endings(rng: random.Random) -> list[list[Draft]]:
    """Groups of four scenes that offer the same four endings."""
    units = []
    for block in ENDINGS.strip().split("\n\n"):
        scenes = dict(line.split(" -> ") for line in block.split("\n"))
        fact, unit = next(iter(scenes)), []
        for scene, ending in scenes.items():
            wrong = [other for other in scenes.values() if other != ending]
            rng.shuffle(wrong)
            unit.append(Draft(fact, scene, ending, tuple(wrong)))
        units.append(unit)
    return units


def draft_twins() -> list[list[Draft]]:
    """Pairs of sentences that differ in a word or two, which changes what fills the blank."""
    units = []
    for line in TWINS.strip().split("\n"):
        start, first, second, end, a, b = re.fullmatch(
            r"(.*)\[(.*)\|(.*)\](.*\.) (.*), (.*)", line
        ).groups()
        units.append([Draft(line, f"{start}{first}{end}", a, (b,))])
        units[-1].append(Draft(line, f"{start}{second}{end}", b, (a,)))
    return units


def balanced_positions(n: int, rng: random.Random) -> Iterator[int]:
    """0 to n-1 without end, each once in every block of n, in random order within the block."""
    while True:
        yield from rng.sample(range(n), n)


def compose(form: str, draft: Draft, n: int, position: int) -> dict[str, str]:
    """The record with the right choice at `position` of `n`."""
    if form == "true/false":
        labels = ["true", "false"]
        question = (draft.right, *draft.wrong)[position]
        body = f"Please answer the following question with true or false, question: {question}"
    else:
        labels = [f"{form}{i + 1}" for i in range(n)]
        texts = list(draft.wrong[: n - 1])
        texts.insert(position, draft.right)
        gap = "\n\n" if form == "solution" else " "
        choices = gap.join(
            f"{label.capitalize()}: {text}" for label, text in zip(labels, texts, strict=True)
        )
        ask = {
            "answer": "Please choose the correct answer to the question",
            "solution": "Please choose the correct solution to the question",
            "ending": "Please choose the correct ending to complete the given sentence",
            "option": "Please choose the correct answer to fill in the blank "
            "to complete the given sentence",
        }[form]
        body = f"{ask}: {draft.question}\n\n{choices}"
    # The published WinoGrande records have the format sentence on the line of the options.
    gap = " " if form == "option" else "\n\n"
    return {
        "instruction": f"{body}{gap}Answer format: {'/'.join(labels)}",
        "input": "",
        "output": f"the correct answer is {labels[position]}",
        "answer": labels[position],
        "task": form,
    }


def make_splits() -> dict[str, list[Made]]:
    """All records by split, each with its fact. A fact never leaves its split."""
    rng = random.Random(0)
    comparisons = draft_comparisons(rng)
    n_checks = TRAIN["true/false"] + 2 * HELD_OUT["true/false"] - len(comparisons)
    checks, questions = draft_tables(n_checks, rng)
    units_by_form = {
        "true/false": checks + comparisons,
        "answer": questions + draft_choices(),
        "solution": draft_solutions(),
        "ending": draft_endings(rng),
        "option": draft_twins(),
    }
    splits: dict[str, list[Made]] = {split: [] for split in SPLITS}
    for form, units in units_by_form.items():
        rng.shuffle(units)
        drafts = [draft for unit in units for draft in unit]
        train, held_out = TRAIN[form], HELD_OUT[form]
        if len(drafts) != train + 2 * held_out:
            raise ValueError(f"{form}: {len(drafts)} drafts for {train} + 2 * {held_out} records")
        parts = drafts[:train], drafts[train : train + held_out], drafts[train + held_out :]
        for split, part in zip(SPLITS, parts, strict=True):
            positions: dict[int, Iterator[int]] = {}
            for i, draft in enumerate(part):
                # A third of the "answer" questions that have four wrong choices show them all.
                n = min(len(draft.wrong) + 1, 4 if i % 3 else 5)
                if n not in positions:
                    positions[n] = balanced_positions(n, rng)
                record = compose(form, draft, n, next(positions[n]))
                splits[split].append(Made(draft.fact, record))
    for made in splits.values():
        rng.shuffle(made)
    return splits


def to_json(made: list[Made]) -> str:
    """The text of a split's file."""
    return json.dumps([m.record for m in made], indent=1) + "\n"


def main() -> None:
    """Writes train.json, validation.json and test.json beside this script."""
    for split, made in make_splits().items():
        Path(__file__).with_name(f"{split}.json").write_text(to_json(made), encoding="utf-8")


if __name__ == "__main__":
    main()
