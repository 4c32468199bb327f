/*
 * From mosaics to what a model says of them: one run of the product has one, a benchmark one a split.
 *
 *                                   ┌─ IMPUTE
 *   mosaic ─ TRAIN ─ CALIBRATE ─ EMBED
 *                                   └─ DIFFERENTIAL
 */

include { TRAIN        } from '../modules/train'
include { CALIBRATE    } from '../modules/calibrate'
include { EMBED        } from '../modules/embed'
include { IMPUTE       } from '../modules/impute'
include { DIFFERENTIAL } from '../modules/differential'

include { chosen       } from '../modules/shell'
include { path_or_none } from '../modules/channels'

workflow MODEL {
    take:
    settings     // Map: every parameter, cast and checked
    ch_mosaics   // channel: [ run, mosaic.h5mu ]; run: [ options?: that differ from the settings, ... ]
    ch_unseen    // channel: [ run, modality, cells ]: what is imputed; a list of cells, or [] for all
    ch_contrasts // channel: [ run, contrast ]

    main:
    contrasts   = path_or_none(settings.contrasts)
    reference   = path_or_none(settings.reference)
    marker_sets = path_or_none(settings.marker_sets)
    tss         = path_or_none(settings.tss)
    gtf         = path_or_none(settings.gtf)
    features    = settings.impute_features == 'all' ? [] : path_or_none(settings.impute_features)
    seeded      = chosen(settings, ['seed', 'device'])

    TRAIN(
        ch_mosaics, reference,
        chosen(settings, [
            'n_latent', 'n_hidden', 'n_layers', 'rna_likelihood', 'atac_likelihood', 'dispersion', 'fusion', 'alignment',
            'alignment_weight', 'adversary', 'adversary_weight', 'cross_reconstruction', 'batch_integration', 'kl_warmup',
            'categorical_covariates', 'continuous_covariates', 'model_compat', 'max_epochs', 'batch_size', 'learning_rate', 'precision', 'device',
            'n_devices', 'n_nodes', 'seed',
        ]) + (settings.labels_weight ? chosen(settings, ['labels', 'labels_weight']) : [:]),
    )
    CALIBRATE(ch_mosaics.join(TRAIN.out.model), seeded)
    ch_trained = ch_mosaics.join(CALIBRATE.out.model) // channel: [ run, mosaic, model ]
    EMBED(
        ch_trained, contrasts, marker_sets, tss, gtf,
        chosen(settings, ['cluster_resolution', 'labels', 'genome', 'chrom_style']) + seeded,
    )
    IMPUTE(
        ch_unseen.combine(EMBED.out.chunks.join(ch_trained), by: 0).flatMap { run, modality, cells, chunks, mosaic, model ->
            (cells ? [cells] : chunks).collect { chunk -> [run, modality, chunk, mosaic, model] }
        },
        features,
        chosen(settings, ['impute_batch', 'predictive'], 'impute_') + seeded +
            [samples: settings.posterior_samples] + (settings.impute_features == 'all' ? [features: 'all'] : [:]),
    )
    DIFFERENTIAL(
        ch_contrasts.combine(EMBED.out.embedding.join(CALIBRATE.out.model), by: 0),
        chosen(settings, ['replicate', 'delta', 'fdr']) + seeded,
    )

    emit:
    model     = CALIBRATE.out.model    // channel: [ run, model ]
    embedding = EMBED.out.embedding    // channel: [ run, multivi.h5mu ]
    imputed   = IMPUTE.out.imputed     // channel: [ run, modality, zarr of a chunk ]
    tables    = DIFFERENTIAL.out.table // channel: [ run, table ]
    cost      = TRAIN.out.cost.mix(CALIBRATE.out.cost, EMBED.out.cost, IMPUTE.out.cost, DIFFERENTIAL.out.cost) // channel: [ run, *.resources.json ]
}
